//! Child processes: started on a core, watched through `/proc`, ended by their own id.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Failure;
use super::load::{Outcome, Spec};

/// The core of the process under test.
pub const TEST_CORE: usize = 0;
/// The core of the sandbox and the load.
pub const LOAD_CORE: usize = 1;

/// What this program does when it starts itself again, to be pinned to a core.
#[derive(Clone, Debug, Serialize, Deserialize, clap::ValueEnum, PartialEq, Eq, Copy)]
pub enum Role {
    Sandbox,
    Forwarder,
    Load,
}

/// A child that ends with this value.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command on one core. `taskset` becomes the command, so the child's id is the command's own.
fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// # Errors
/// When the machine cannot keep what is measured apart from what measures.
pub fn check_machine() -> Result<(), Failure> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("two cores are needed: one for the process under test, one for sandbox and load".into());
    }
    let found = Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        Err("taskset is needed; it is in the package util-linux".into())
    }
}

/// Starts a role of this program that listens, and waits for the line with its address.
pub fn listening(role: Role, core: usize, arguments: &[&str]) -> Result<(Process, SocketAddr), Failure> {
    let mut command = of_role(role, core)?;
    let mut child = Process(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let output = child.0.stdout.take().ok_or("a child without standard output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(output).read_line(&mut line);
        let _ = sender.send(line);
    });
    let line = receiver.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
    let address = line.trim().parse().map_err(|_| format!("the {role:?} did not come up"))?;
    Ok((child, address))
}

fn of_role(role: Role, core: usize) -> Result<Command, Failure> {
    let mut command = pinned(core, &std::env::current_exe()?);
    let name = format!("{role:?}").to_lowercase();
    command.arg("--role").arg(name);
    Ok(command)
}

/// Runs one load to its end. Any error in it is one of the whole run.
pub fn load(spec: &Spec) -> Result<Outcome, Failure> {
    let mut command = of_role(Role::Load, LOAD_CORE)?;
    let mut child = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut input = child.0.stdin.take().ok_or("a child without standard input")?;
    input.write_all(&serde_json::to_vec(spec)?)?;
    drop(input);
    // The child bounds its own time.
    let output = child.0.stdout.take().ok_or("a child without standard output")?;
    let text = std::io::read_to_string(output)?;
    let outcome: Outcome = serde_json::from_str(&text).map_err(|_| "the load generator failed")?;
    match &outcome.first_error {
        Some(error) => Err(format!("{} connections failed; the first with {error}", outcome.errors).into()),
        None => Ok(outcome),
    }
}

/// A `keyward serve` that is up.
pub struct Keyward {
    process: Process,
    pub address: SocketAddr,
}

impl Keyward {
    /// Starts the real binary on the core under test and waits until it is ready. The settings
    /// are environment variables; nothing else of this environment reaches it.
    pub fn start(folder: &Path, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        // Freed again at once: whoever takes it in between makes this run fail, not lie.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = std::fs::File::create(folder.join("keyward.log"))?;
        let mut command = pinned(TEST_CORE, Path::new(env!("CARGO_BIN_EXE_keyward")));
        command
            .arg("serve")
            .env_clear()
            .envs(std::env::var("PATH").map(|path| ("PATH", path)))
            .env("KEYWARD_DATA_DIR", folder)
            .env("KEYWARD_BIND", address.to_string())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut this = Self { process: Process(command.spawn()?), address };
        let patience = Instant::now() + Duration::from_secs(20);
        while !this.is_ready() {
            let ended = this.process.0.try_wait()?;
            if ended.is_some() || Instant::now() > patience {
                let log = std::fs::read_to_string(folder.join("keyward.log")).unwrap_or_default();
                return Err(format!("keyward did not come up:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(this)
    }

    fn is_ready(&self) -> bool {
        use std::io::Read as _;
        let Ok(mut stream) = std::net::TcpStream::connect(self.address) else { return false };
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(Duration::from_secs(3))).is_ok()
            && stream
                .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer.ends_with(b"200")
    }

    pub fn memory(&self) -> Result<Memory, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let kib = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok())
        };
        let (now, peak) = kib("VmRSS:").zip(kib("VmHWM:")).ok_or("no memory figures in /proc")?;
        Ok(Memory { now: now / 1_024.0, peak: peak / 1_024.0 })
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Asks it to stop, as an operator would, and waits.
    pub fn stop(mut self) -> Result<(), Failure> {
        Command::new("kill").arg("-TERM").arg(self.process.0.id().to_string()).status()?;
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience {
            if let Some(status) = self.process.0.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("keyward ended with {status}").into())
                };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("keyward did not stop within ten seconds".into())
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

/// Resident memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: f64,
    pub peak: f64,
}

/// Processor time that a process has used so far, in seconds, to the hundredth.
pub fn processor_seconds(id: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in brackets, may hold anything; the fields after it are plain.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Option<f64> =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().ok()).sum();
    // Linux counts in hundredths of a second wherever this can run.
    Ok(ticks.ok_or("no processor time in /proc")? / 100.0)
}
