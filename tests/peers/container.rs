//! The image, the seccomp profile and the examples of `packaging/container`, by the command lines of `packaging/docs/container.md`: Podman under the
//! name of Docker, with its own default profile, in a network and with mounts that are ours alone.

use super::python;
use crate::support::client::deliver;
use crate::support::process::{Finished, enter_a_network_of_its_own, enter_mounts_of_its_own, run};
use crate::support::{Answer, Endpoint, eventually, messages, turn};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SLOW: Duration = Duration::from_secs(300);
/// The page names the release that it was written for.
const PACKAGE: &str = "target/debian/mailsluice_0.2.0_amd64.deb";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The page's blocks of commands, in their order.
fn blocks() -> [String; 5] {
    let page = std::fs::read_to_string(root().join("packaging/docs/container.md")).unwrap();
    let blocks: Vec<String> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    blocks.try_into().unwrap_or_else(|blocks: Vec<_>| panic!("{} blocks of commands, and a test for five", blocks.len()))
}

/// An engine with a store of its own, and a folder like the repository's for its commands.
struct Engine(TempDir);

impl Engine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["bin", "repository/target/debian", "repository/packaging"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        let podman = format!(
            "#!/bin/sh\nexec {} --root {dir}/storage --runroot {dir}/run --cgroup-manager cgroupfs --runtime runc --network-config-dir {dir}/net \"$@\"\n",
            super::program("podman").display(),
            dir = dir.path().display()
        );
        let docker = "#!/bin/sh\nif [ \"$1\" = compose ]; then shift; exec podman-compose \"$@\"; fi\nexec podman \"$@\"\n";
        for (name, text) in [("podman", podman.as_str()), ("docker", docker)] {
            std::fs::write(at("bin").join(name), text).unwrap();
            std::fs::set_permissions(at("bin").join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // What a machine that may not raise its limits can give.
        std::fs::write(at("containers.conf"), "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n").unwrap();
        let engine = Self(dir);
        engine.sh(&format!("cp -r {} repository/packaging/", root().join("packaging/container").display())).ok();
        engine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Runs a script in the engine's folder to its end.
    #[track_caller]
    fn sh(&self, script: &str) -> Finished {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(self.0.path()).env("PATH", path);
        command.env("CONTAINERS_CONF", self.path("containers.conf")).env("BUILDAH_ISOLATION", "chroot");
        run(&mut command, SLOW)
    }

    /// Runs what the page shows where it says so.
    #[track_caller]
    fn page(&self, folder: &str, script: &str) -> Finished {
        self.sh(&format!("cd repository/{folder}\n{script}"))
    }

    /// A file of the folder, changed; what is replaced must be there.
    #[track_caller]
    fn edit(&self, file: &str, changes: &[(&str, &str)]) {
        let file = self.path("repository/packaging/container").join(file);
        let mut text = std::fs::read_to_string(&file).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from} is not in {}", file.display());
            text = text.replace(from, to);
        }
        std::fs::write(file, text).unwrap();
    }

    /// The base image from the clean Debian, without what is for readers.
    #[track_caller]
    fn base(&self) {
        let made = root().join("target/peers/debian12");
        run(Command::new(root().join("packaging/clean-debian.sh")).arg(&made), Duration::from_secs(1800)).ok();
        self.sh(&format!(
            "tar -C {} --exclude=./usr/share/man --exclude=./usr/share/doc --exclude=./usr/share/locale --exclude=./var/cache --one-file-system \
             -cf - . | docker import - debian:12-slim",
            made.display()
        ))
        .ok();
    }

    /// The development build as a package, as small as can be.
    #[track_caller]
    fn package(&self) {
        self.sh(&format!(
            "mkdir -p deb/usr/bin deb/DEBIAN\nstrip -o deb/usr/bin/mailsluice {}\n\
             printf 'Package: mailsluice\\nVersion: 0.2.0\\nArchitecture: amd64\\nMaintainer: x <x@example.com>\\nDescription: x\\n' >deb/DEBIAN/control\n\
             dpkg-deb -Znone --root-owner-group --build deb repository/{PACKAGE}",
            crate::support::daemon::BINARY
        ))
        .ok();
    }

    fn logs(&self, name: &str) -> String {
        let said = self.sh(&format!("docker logs {name}"));
        format!("{}{}", said.out, said.err)
    }

    #[track_caller]
    fn logs_say(&self, name: &str, what: &str) {
        eventually(&format!("{what} in the log"), || self.logs(name).contains(what).then_some(()));
    }
}

#[test]
fn the_page_is_run() {
    let _turn = turn::shared();
    // Outlives the mounts in it.
    let engine = Engine::new();
    std::thread::scope(|scope| {
        let all = scope.spawn(|| tried(&engine));
        if let Err(panic) = all.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn tried(engine: &Engine) {
    enter_a_network_of_its_own();
    enter_mounts_of_its_own();
    let endpoint = Endpoint::with(|_| Answer::status(200)).on(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).start();
    engine.base();
    engine.package();
    let [build, compose, change, alone, jq] = blocks();
    engine.page("", &build).ok();
    let url = format!("http://host.containers.internal:{}/inbound", endpoint.address.port());
    engine.edit("mailsluice.toml", &[("http://app:3000/inbound", &url)]);
    by_compose(engine, &compose, &change);
    by_hand(engine, &alone, &jq);
    as_a_pod(engine, &url);
    // What doctor asks is not among them.
    assert_eq!(endpoint.requests().iter().filter(|request| !request.body.is_empty()).count(), 4);
}

fn by_compose(engine: &Engine, start: &str, change: &str) {
    let folder = "packaging/container";
    let file = std::fs::read_to_string(engine.path("repository/packaging/container/compose.yaml")).unwrap();
    // Podman's health checks are timers of systemd: the command is run below.
    let (before, after) = file.split_once("    healthcheck:\n").unwrap();
    let (check, after) = after.split_once("\n\n").unwrap();
    let check: Vec<String> = serde_json::from_str(check.lines().next().unwrap().trim().strip_prefix("test: ").unwrap()).unwrap();
    assert_eq!(check[0], "CMD");
    std::fs::write(engine.path("repository/packaging/container/compose.yaml"), format!("{before}\n{after}")).unwrap();
    engine.edit("compose.yaml", &[("    ulimits:\n", "    ulimits:\n      nproc: 4096\n"), ("nofile: 16384", "nofile: 4096")]);
    let commands: Vec<&str> = start.lines().collect();
    let ["cd packaging/container", setup @ .., logs, doctor, send, records] = commands.as_slice() else { panic!("{start}") };
    engine.page(folder, &setup.join("\n")).ok();
    engine.logs_say("mailsluice", "\"ready\"");
    engine.page(folder, logs).ok();
    // Names are not known here, and doctor says so; what counts is there.
    let found = engine.page(folder, doctor);
    for part in ["ok       io_uring: a ring", "ok       smtp.listen [::]:25: the daemon answers there", "reached"] {
        assert!(found.out.contains(part), "{part}: {found:?}");
    }
    assert!(engine.page(folder, send).ok().contains("250 2.0.0 Ok"));
    assert!(engine.page(folder, records).ok().contains("delivered"));
    engine.sh(&format!("docker exec mailsluice {}", check[1..].join(" "))).ok();
    engine.page(folder, change).ok();
    engine.logs_say("mailsluice", "configuration reloaded");
    let shut = engine.sh("docker exec mailsluice sh -c true");
    assert_ne!(shut.code, Some(0), "there is a shell: {shut:?}");
    engine.sh("docker stop mailsluice").ok();
    assert_eq!(engine.sh("docker inspect --format '{{.State.ExitCode}}' mailsluice").ok().trim(), "0", "{}", engine.logs("mailsluice"));
    engine.page(folder, "docker compose down -v").ok();
}

fn by_hand(engine: &Engine, start: &str, jq: &str) {
    let folder = "packaging/container";
    let with = " --security-opt seccomp=seccomp.json";
    assert!(start.contains(with) && start.contains(" -d --name mailsluice "), "{start}");
    // With the engine's own profile: one line, and the code of "unavailable".
    let forbidden = engine.page(folder, &start.replace(with, "").replace(" -d --name mailsluice ", " --rm "));
    assert_eq!(forbidden.code, Some(69), "{forbidden:?}");
    let said = format!("{}{}", forbidden.out, forbidden.err);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("mailsluice: ")).collect();
    assert!(matches!(lines[..], [line] if line.contains("io_uring is forbidden here") && line.contains("container.md")), "{said}");
    // With that profile and the three names; with ours.
    engine.page(folder, jq).ok();
    for profile in ["with-io_uring.json", "seccomp.json"] {
        engine.page(folder, &start.replace("seccomp=seccomp.json", &format!("seccomp={profile}"))).ok();
        engine.logs_say("mailsluice", "\"ready\"");
        let smtp = SocketAddr::from(([127, 0, 0, 1], 2525));
        deliver(smtp, "a@sender.test", &["b@tickets.example.com"], &messages::simple(profile, "text")).starts("250 ");
        engine.sh("docker rm -f mailsluice").ok();
    }
}

fn as_a_pod(engine: &Engine, url: &str) {
    let manifest = root().join("packaging/container/kubernetes.yaml");
    let pod = engine.path("pod.yaml");
    let probes = python::script("pod.py", &[manifest.to_str().unwrap(), pod.to_str().unwrap(), url, TOKEN]);
    let probes: serde_json::Value = serde_json::from_str(&probes).unwrap();
    // As a node has it.
    engine.sh("mkdir nodes-profiles && cp repository/packaging/container/seccomp.json nodes-profiles/mailsluice.json").ok();
    engine.sh("docker kube play --seccomp-profile-root nodes-profiles pod.yaml").ok();
    engine.logs_say("mailsluice-0-mailsluice", "\"ready\"");
    let networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = engine.sh(&format!("docker inspect --format '{networks}' $(docker ps -q --filter name=infra)")).ok();
    let address: IpAddr = address.trim().parse().unwrap();
    for (name, probe) in probes.as_object().unwrap() {
        let asked = engine.sh(&format!("curl --silent --fail --max-time 60 http://{address}:{}{}", probe[1], probe[0].as_str().unwrap()));
        assert_eq!(asked.code, Some(0), "{name} {probe}: {asked:?}");
    }
    deliver(SocketAddr::new(address, 25), "a@sender.test", &["b@tickets.example.com"], &messages::simple("pod", "text")).starts("250 ");
    engine.sh("docker kube down pod.yaml").ok();
}

#[test]
fn the_manifest_is_kubernetes_own() {
    let validate = root().join("target/peers/venv/bin/kubernetes-validate");
    let said = run(Command::new(validate).arg("--strict").arg(root().join("packaging/container/kubernetes.yaml")), SLOW);
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// What the profile allows beyond the calls of a server would be asked about.
#[test]
fn the_profile_is_shut() {
    let profile: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("packaging/container/seccomp.json")).unwrap()).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let groups = profile["syscalls"].as_array().unwrap();
    let allowed: Vec<&str> =
        groups.iter().flat_map(|group| group["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&call), "{call}");
    }
    for call in [
        "ptrace",
        "process_vm_readv",
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "userfaultfd",
        "perf_event_open",
        "kexec_load",
        "init_module",
        "finit_module",
        "open_by_handle_at",
        "mknod",
        "mknodat",
        "chroot",
        "reboot",
        "personality",
    ] {
        assert!(!allowed.contains(&call), "{call}");
    }
    assert!(groups.iter().all(|group| group["action"] == "SCMP_ACT_ALLOW"));
}
