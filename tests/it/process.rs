//! Keyward as a process of its own, on the data folder of a world whose own server was stopped.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::World;

/// Longer than anything that a start or a stop waits for.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process that serves. It never outlives the test.
pub struct Process(Child);

impl Process {
    /// Starts it, and waits until it is ready.
    pub async fn serve(world: &World) -> Self {
        Self::serve_with(world, |_| {}).await
    }

    /// The same with settings beside the usual ones.
    pub async fn serve_with(world: &World, set: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command
            .arg("serve")
            .env_clear()
            .env("KEYWARD_BIND", world.settings.bind.to_string())
            .env("KEYWARD_DATA_DIR", world.dir.path())
            .env("KEYWARD_ANTHROPIC_URL", &world.settings.anthropic_url)
            .env("KEYWARD_SHUTDOWN_SECONDS", "5")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(url) = &world.settings.database_url {
            command.env("KEYWARD_DATABASE_URL", url);
        }
        set(&mut command);
        let child = command.spawn().unwrap();
        let mut process = Self(child);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let asked = world.http.get(format!("{}/readyz", world.url)).timeout(Duration::from_secs(5));
            if asked.send().await.is_ok_and(|answer| answer.status() == 200) {
                return process;
            }
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("the server ended at its start: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server never became ready; {}", process.doing());
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Keeps it from doing anything until it may go on.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) {
        self.signal("-TERM");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not stop; {}", self.doing());
    }

    /// What its threads wait for, as far as the system tells.
    fn doing(&self) -> String {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.0.id())) else {
            return "it is gone".to_owned();
        };
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let lines = threads.flatten().map(|thread| {
            let [name, waits, call] = ["comm", "wchan", "syscall"].map(|file| read(thread.path().join(file)));
            format!("{} in {} ({})", name.trim(), waits.trim(), call.trim())
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
