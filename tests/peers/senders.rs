//! Programs that submit mail, each with addresses as forwarders, list servers and ticket systems make them: long local parts, dots anywhere.
//! What arrives in the record is what was given to the program.

use crate::support::process::run;
use crate::support::{Client, Config, Daemon, Endpoint, PATIENCE};
use std::process::Command;

pub(super) const FROM: [&str; 4] = [
    "gmailuser+caf_=website_8b506e99-b5c5-4e14-8294-f5ebd6083faa=mail.jam.in@gmail.com",
    "bounces+1234567-ab12-someuser=verylongcustomerdomainname-example.com@em1234.sendgrid.example",
    "SRS0=fGv9=BC=a.ccdefghijklmn.com=bounce-4IDNASXYtY_FG21s4IoV1XzCfCtHkb2RZY_qdGZ8Q-6A@email.mydomin.com",
    "try..this..0511@docomo.example",
];
pub(super) const TO: [&str; 4] = [
    "website_8b506e99-b5c5-4e14-8294-f5ebd6083faa@mail.jam.in",
    "reply+000c89caea14b0bf53caf17fd0c9c67fce378f51fd1af05492cf000000011292f3d892a169ce07601530@reply.example",
    "incoming+my-long-group-name-my-long-project-name-12345678-abcdefghijklmnopqrst-issue@incoming.example",
    "ilo.@reply.example",
];
pub(super) const MESSAGE: &str = "From: <a@sender.test>\r\nTo: <b@example.test>\r\nSubject: by a program\r\n\r\nhi\r\n.dot\r\n";

/// Sends with each pair by `send`, given host, port, sender and recipient, and a file that holds the message.
#[track_caller]
fn each_arrives(send: impl Fn(&str, &str, &str, &str, &std::path::Path)) {
    let endpoint = Endpoint::ok();
    let daemon = Daemon::start(Config::to(&endpoint));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("message.eml");
    std::fs::write(&file, MESSAGE).unwrap();
    let (host, port) = (daemon.smtp().ip().to_string(), daemon.smtp().port().to_string());
    for (from, to) in FROM.into_iter().zip(TO) {
        endpoint.clear();
        send(&host, &port, from, to, &file);
        let request = endpoint.only();
        let body = String::from_utf8_lossy(&request.body).replace('\r', "");
        assert!(body.contains("hi\n.dot\n"), "{from}: {body:?}");
        let record = daemon.admin.records("").remove(0);
        assert_eq!((record["sender"].as_str(), &record["recipients"]), (Some(from), &serde_json::json!([to])));
        assert_eq!(record["outcome"], "delivered");
    }
}

#[test]
fn curl() {
    each_arrives(|host, port, from, to, file| {
        let mut command = Command::new(super::program("curl"));
        command.args(["-sS", &format!("smtp://{host}:{port}/client.test"), "--mail-from", from, "--mail-rcpt", to, "--upload-file"]);
        run(command.arg(file), PATIENCE).ok();
    });
}

#[test]
fn swaks() {
    each_arrives(|host, port, from, to, file| {
        let mut command = Command::new(super::program("swaks"));
        command.args(["--server", host, "--port", port, "--from", from, "--to", to, "--helo", "my pc", "--data"]);
        run(command.arg(format!("@{}", file.display())), PATIENCE).ok();
    });
}

#[test]
fn msmtp() {
    each_arrives(|host, port, from, to, file| {
        // It takes a message by its standard input, with the line ends of the system.
        let mut command = Command::new("sh");
        command.args(["-c", "file=$1; shift; tr -d '\\r' < \"$file\" | \"$@\"", "sh"]).arg(file).arg(super::program("msmtp"));
        command.args(["--file=/dev/null", &format!("--host={host}"), &format!("--port={port}"), &format!("--from={from}"), "--", to]);
        run(&mut command, PATIENCE).ok();
    });
}

#[test]
fn nodemailer() {
    const SCRIPT: &str = "const [host, port, from, to, path] = process.argv.slice(1);\
        const transport = require('/usr/share/nodejs/nodemailer').createTransport({ host, port: Number(port), ignoreTLS: true, name: '[2001:db8::1]' });\
        transport.sendMail({ envelope: { from, to: [to] }, raw: require('fs').readFileSync(path) })\
        .catch(error => { console.error(error); process.exit(1); });";
    each_arrives(|host, port, from, to, file| {
        let mut command = Command::new(super::program("node"));
        command.args(["-e", SCRIPT, host, port, from, to]);
        run(command.arg(file), PATIENCE).ok();
    });
}

#[test]
fn phpmailer() {
    // It greets with what the operating system calls the machine.
    const SCRIPT: &str = "require '/usr/share/php/libphp-phpmailer/autoload.php'; [, $host, $port, $from, $to] = $argv;\
        PHPMailer\\PHPMailer\\PHPMailer::$validator = 'html5'; $mail = new PHPMailer\\PHPMailer\\PHPMailer(true); $mail->isSMTP();\
        $mail->Host = $host; $mail->Port = $port; $mail->Helo = 'PhpStorm 2017.2'; $mail->Sender = $from; $mail->setFrom('a@sender.test');\
        $mail->addAddress($to); $mail->Subject = 'by a program'; $mail->Body = \"hi\\r\\n.dot\\r\\n\"; $mail->send();";
    each_arrives(|host, port, from, to, _| {
        let mut command = Command::new(super::program("php"));
        run(command.args(["-r", SCRIPT, "--", host, port, from, to]), PATIENCE).ok();
    });
}

#[test]
fn javamail() {
    let jars = ["jakarta-mail", "jakarta-mail-api", "jakarta-activation"].map(|name| format!("/usr/share/java/{name}.jar")).join(":");
    let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/Submit.java");
    each_arrives(|host, port, from, to, file| {
        let mut command = Command::new(super::program("java"));
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &jars]).arg(&program).args([host, port, from, to]);
        // It is compiled before it runs.
        run(command.arg(file), 4 * PATIENCE).ok();
    });
}

#[test]
fn smtplib() {
    const SCRIPT: &str = "import smtplib, sys; host, port, sender, to, path = sys.argv[1:]; server = smtplib.SMTP(host, int(port));\
        server.sendmail(sender, [to], open(path, 'rb').read()); server.quit()";
    each_arrives(|host, port, from, to, file| {
        let mut command = Command::new(super::program("python3"));
        command.args(["-c", SCRIPT, host, port, from, to]);
        run(command.arg(file), PATIENCE).ok();
    });
}

/// As mail from Office comes: everything that may be is pipelined, and the message comes in chunks of which the last is empty.
#[test]
fn a_sender_with_chunks() {
    each_arrives(|host, port, from, to, file| {
        let mut client = Client::connect(format!("{host}:{port}").parse().unwrap());
        client.ehlo();
        let message = std::fs::read(file).unwrap();
        let (first, second) = message.split_at(40);
        let mut octets = format!("MAIL FROM:<{from}> SIZE={} BODY=8BITMIME\r\nRCPT TO:<{to}>\r\n", message.len()).into_bytes();
        for chunk in [first, second] {
            octets.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
            octets.extend_from_slice(chunk);
        }
        octets.extend_from_slice(b"BDAT 0 LAST\r\n");
        client.send(octets);
        for reply in ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.0.0 Ok: "] {
            client.reply().starts(reply);
        }
        client.quit();
    });
}
