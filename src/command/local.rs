//! The server of this machine, when nobody named another: started if nobody listens, named if a stranger does.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Failure, Kind};
use crate::holder::places;
use crate::holder::registry::START_LOCK;
use crate::holder::start::this_program;
use crate::output;
use crate::settings::Settings;
use crate::sys;

const PORT: u16 = 6388;
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// How long a server that was started stays when it is not used.
const IDLE_EXIT: &str = "60s";

/// Nothing is nearer than this machine.
const PROBE: Duration = Duration::from_secs(1);

/// Sees to it that the default server is there, if that is the one that will be asked.
pub(crate) fn ensure(settings: &Settings) -> Result<(), Failure> {
    if !settings.servers_are_default || !settings.autostart || settings.tls || is_there() {
        return Ok(());
    }
    // One starts it, the others wait for that; between users the bind decides.
    let path = places::find_or_make()?.join(START_LOCK);
    let wrong = |why| Failure::usage(format!("cannot write {}: {why}", path.display()));
    let turn = File::options().create(true).append(true).open(&path).map_err(wrong)?;
    turn.lock().map_err(|why| Failure::internal("wait for the start of a server", &why))?;
    if is_there() {
        return Ok(());
    }
    start()?;
    if output::is_person_there() {
        output::remark(&format!("started a lock server on {HERE}; it leaves when it is not used"));
    }
    Ok(())
}

/// Says who it is that listens on the default address and does not answer as a lock server would.
pub(crate) fn name_stranger(settings: &Settings, mut failure: Failure) -> Failure {
    let is_strange = matches!(failure.kind, Kind::Refused | Kind::Unreachable);
    if settings.servers_are_default
        && is_strange
        && let Some(stranger) = listener(PORT).filter(|stranger| !stranger.contains("dflock"))
    {
        failure.message = format!("{} (process {stranger} listens there)", failure.message);
        failure.hint = Some("name a lock server with --servers or DFLOCK_SERVERS, or free the port".to_owned());
    }
    failure
}

fn is_there() -> bool {
    TcpStream::connect_timeout(&HERE, PROBE).is_ok()
}

fn start() -> Result<(), Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::internal(&format!("start a lock server on {HERE}"), why);
    sys::inherit_only_stdio().map_err(|why| cannot(&why))?;
    let mut command = Command::new(this_program().map_err(|why| cannot(&why))?);
    command.arg0("dflock").args(["serve", "--detach", "--log-format", "json", "--idle-exit", IDLE_EXIT]);
    command.args(["--host", "127.0.0.1", "--port", &PORT.to_string()]);
    // Settings for a server of somebody's own are not meant for this one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DFLOCKD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|why| cannot(&why))?;
    let Some(stderr) = child.stderr.take() else { return Err(cannot(&"it has no stderr")) };
    let mut said = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("\"event\":\"listening\"") {
            return Ok(());
        }
        said = line;
    }
    // It ended: most likely another was quicker.
    if is_there() { Ok(()) } else { Err(cannot(&said.trim_start_matches("dflock: "))) }
}

/// Number and name of the process that listens on a TCP port, where the system tells.
fn listener(port: u16) -> Option<String> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|digit| digit.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if std::fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{pid} ({})", name.trim()));
            }
        }
    }
    Some("of another user".to_owned())
}

fn listening_inode(port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).ok()?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_port = fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
            if is_port && fields.get(3) == Some(&LISTEN) {
                return fields.get(9).map(|inode| (*inode).to_owned());
            }
        }
    }
    None
}
