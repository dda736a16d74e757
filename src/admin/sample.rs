//! `POST /inspector/sample`: a sample message for the inspector, which comes in by the daemon's own SMTP door as any other. Without TLS, on
//! this machine, with a clock over all of it. Logs nothing.

use super::answer::{self, Problem};
use super::app::App;
use super::inspector::only_in_development;
use crate::message::sample;
use axum::extract::State;
use axum::response::Response;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// The inspector may have been told to let it wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a reply.
const REPLY_MAX: u64 = 64 * 1024;
const NAME: &str = "localhost";

/// Answers with the reply to the end of data, or to the command that was refused.
pub(super) async fn send(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    only_in_development(&app)?;
    let listen = app.deps.config.load().smtp.listen.first().copied();
    let address = listen.map(on_this_machine).ok_or_else(|| Problem::unavailable("there is no smtp.listen"))?;
    match tokio::time::timeout(PATIENCE, submit(address)).await {
        Ok(Ok(reply)) => Ok(answer::json(&serde_json::json!({ "reply": reply }))),
        Ok(Err(error)) => Err(Problem::unavailable(format!("SMTP on {address}: {error}"))),
        Err(_) => Err(Problem::unavailable(format!("SMTP on {address}: no reply within {} s", PATIENCE.as_secs()))),
    }
}

fn on_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn submit(address: SocketAddr) -> std::io::Result<String> {
    let (from, to) = ("sample@localhost", "you@localhost");
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    // It has no line that begins with a dot.
    let data = [sample::message(from, &[to.to_owned()], NAME), b".\r\n".to_vec()].concat();
    let commands = [
        format!("EHLO {NAME}\r\n").into_bytes(),
        format!("MAIL FROM:<{from}>\r\n").into_bytes(),
        format!("RCPT TO:<{to}>\r\n").into_bytes(),
        b"DATA\r\n".to_vec(),
        data,
    ];
    let mut said = reply(&mut stream).await?;
    for command in commands {
        if !said.starts_with(['2', '3']) {
            return Ok(said);
        }
        stream.write_all(&command).await?;
        said = reply(&mut stream).await?;
    }
    // It has been answered; whether its farewell gets through changes nothing.
    stream.write_all(b"QUIT\r\n").await.unwrap_or(());
    Ok(said)
}

/// The last line of a reply.
async fn reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut limited = stream.take(REPLY_MAX);
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.trim_end().to_owned());
        }
    }
}
