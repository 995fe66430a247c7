//! Gets lines to a file that is replaced by a new one when it has become too large.
//!
//! A thread of its own writes, so that a slow disk slows nobody down at first: a few thousand lines wait in memory. When there
//! is no more room, a request waits a moment for some; then lines are lost, counted and told, and nobody waits any more until
//! there is room again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Lines that wait to be written, about 1 KiB each.
const WAITING: usize = 4096;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where lines go. Flags `--audit-log-path`, `--audit-log-maxsize`, `--audit-log-maxbackup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The file.
    pub path: PathBuf,
    /// How large it becomes at most.
    pub max_bytes: u64,
    /// How many of its predecessors are kept, as `<path>.1` (the newest), `<path>.2`, ….
    pub max_backups: u32,
}

enum Order {
    Line(Vec<u8>),
    /// Say so when all before it is written.
    Flush(oneshot::Sender<()>),
}

/// An open log; clones are the same one.
#[derive(Clone, Debug)]
pub struct Log {
    orders: mpsc::Sender<Order>,
    full: Arc<AtomicBool>,
    lost: Counter,
}

impl Log {
    /// Opens the file, readable and writable by its owner only, and goes on where it ends.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(config: LogConfig) -> io::Result<Self> {
        let file = Rotated::open(config)?;
        let (orders, received) = mpsc::channel(WAITING);
        let lost = Counter::default();
        let losses = lost.clone();
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(file, received, &losses))?;
        Ok(Self {
            orders,
            full: Arc::default(),
            lost,
        })
    }

    /// Writes an event.
    pub async fn write(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        let line = match self.orders.try_send(Order::Line(line)) {
            Ok(()) => return self.full.store(false, Ordering::Relaxed),
            Err(mpsc::error::TrySendError::Full(line)) => line,
            Err(mpsc::error::TrySendError::Closed(_)) => return self.lose(),
        };
        if self.full.load(Ordering::Relaxed)
            || self.orders.send_timeout(line, PATIENCE).await.is_err()
        {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::error!("the audit log is slower than the requests: events are lost");
            }
            self.lose();
        }
    }

    /// The same where nothing may wait: what finds no room is lost.
    pub fn write_now(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        if self.orders.try_send(Order::Line(line)).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        self.lost.inc();
    }

    /// How many events were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Where they are counted.
    pub(crate) fn losses(&self) -> Counter {
        self.lost.clone()
    }

    /// Waits until all that was written so far is in the file.
    pub async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.orders.send(Order::Flush(done)).await.is_ok() {
            let _ = told.await;
        }
    }
}

fn write_all(mut file: Rotated, mut orders: mpsc::Receiver<Order>, lost: &Counter) {
    let mut failed = false;
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Flush(done) => {
                let _ = done.send(());
            }
            Order::Line(line) => match file.write(&line) {
                Ok(()) => failed = false,
                Err(error) => {
                    lost.inc();
                    if !failed {
                        let path = file.config.path.display();
                        tracing::error!(%path, %error, "the audit log cannot be written: events are lost");
                    }
                    failed = true;
                }
            },
        }
    }
}

/// The file and its predecessors.
struct Rotated {
    config: LogConfig,
    file: File,
    size: u64,
}

impl Rotated {
    fn open(config: LogConfig) -> io::Result<Self> {
        let file = open(&config.path)?;
        let size = file.metadata()?.len();
        Ok(Self { config, file, size })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.config.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let LogConfig {
            path, max_backups, ..
        } = &self.config;
        let backup = |number: u32| {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..*max_backups).rev() {
            move_if_there(&backup(number), &backup(number + 1))?;
        }
        if *max_backups == 0 {
            fs::remove_file(path)?;
        } else {
            move_if_there(path, &backup(1))?;
        }
        self.file = open(path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o600).open(path)?;
    // One that was there may have been open to others.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(dir: &Path, max_bytes: u64, max_backups: u32) -> LogConfig {
        LogConfig {
            path: dir.join("audit.log"),
            max_bytes,
            max_backups,
        }
    }

    #[tokio::test]
    async fn a_full_file_makes_room_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        // Two lines of eight bytes each.
        let log = Log::open(config(dir.path(), 16, 2)).unwrap();
        for number in 1..=7 {
            log.write(&json!({"n": number})).await;
        }
        log.flush().await;
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("audit.log"), "{\"n\":7}\n");
        assert_eq!(read("audit.log.1"), "{\"n\":5}\n{\"n\":6}\n");
        assert_eq!(read("audit.log.2"), "{\"n\":3}\n{\"n\":4}\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        let mode = |name: &str| {
            let file = fs::metadata(dir.path().join(name)).unwrap();
            file.permissions().mode() & 0o777
        };
        assert_eq!((mode("audit.log"), mode("audit.log.2")), (0o600, 0o600));
        assert_eq!(log.lost(), 0);
    }

    #[tokio::test]
    async fn a_restart_goes_on_where_the_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=2 {
            let log = Log::open(config(dir.path(), 1 << 20, 1)).unwrap();
            log.write(&json!({"n": number})).await;
            log.flush().await;
        }
        let text = fs::read_to_string(dir.path().join("audit.log")).unwrap();
        assert_eq!(text, "{\"n\":1}\n{\"n\":2}\n");
    }

    /// A pipe that nobody reads is a disk that does not answer.
    #[tokio::test]
    async fn a_disk_that_does_not_answer_costs_events_and_not_requests() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), 1 << 30, 1);
        nix::unistd::mkfifo(&config.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for reading too, or opening it would wait.
        let reader = OpenOptions::new().read(true).write(true).open(&config.path);
        let log = Log::open(config).unwrap();
        let event = json!({"text": "x".repeat(1000)});
        for _ in 0..2 * WAITING {
            log.write(&event).await;
        }
        let lost = log.lost();
        assert!(lost > 0);
        let metrics = crate::metrics::Metrics::new(Some(&log)).text(0);
        let line = format!("apiserver_audit_error_total{{plugin=\"log\"}} {lost}\n");
        assert!(metrics.contains(&line), "{metrics}");
        drop(reader);
    }
}
