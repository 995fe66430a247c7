//! Room and patience of connection tracking: raised where they are less than Services need, never lowered.
//!
//! Sizes belong to the whole machine, and the kernel shows them read-only in every network namespace but the first; times
//! belong to the namespace. Defaults and names are those of the reference proxy (kubernetes/kubernetes
//! pkg/proxy/conntrack/sysctls.go). The kernel's files: Documentation/networking/nf_conntrack-sysctl.rst.

use std::{fs, io, path::Path, time::Duration};

/// What connection tracking must have at least; zero leaves a setting alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// `--conntrack-max-per-core`: flows that can be tracked, for each CPU.
    pub max_per_core: u32,
    /// `--conntrack-min`: flows that can be tracked, however few CPUs there are.
    pub min: u32,
    /// `--conntrack-tcp-timeout-established`: how long a silent TCP connection is remembered.
    pub tcp_timeout_established: Duration,
    /// `--conntrack-tcp-timeout-close-wait`: how long one is remembered that one side has closed.
    pub tcp_timeout_close_wait: Duration,
    /// `--conntrack-udp-timeout`: how long a UDP flow is remembered that nobody has answered.
    pub udp_timeout: Duration,
    /// `--conntrack-udp-timeout-stream`: how long one is remembered that was answered.
    pub udp_timeout_stream: Duration,
    /// `--conntrack-tcp-be-liberal`: TCP segments outside of the window are not invalid. Needed where not every packet of a
    /// connection passes here; the rules need it for nothing, since they drop what is invalid rather than let it out.
    pub tcp_be_liberal: bool,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_timeout_established: Duration::from_secs(24 * 3600),
            tcp_timeout_close_wait: Duration::from_secs(3600),
            udp_timeout: Duration::ZERO,
            udp_timeout_stream: Duration::ZERO,
            tcp_be_liberal: false,
        }
    }
}

/// Where the kernel shows them for the namespace of the calling thread.
const ROOT: &str = "/proc/sys/net/netfilter";
const MAX: &str = "nf_conntrack_max";
const BUCKETS: &str = "nf_conntrack_buckets";
/// Flows in a hash bucket when the table is full: the reference proxy's measure.
const FLOWS_PER_BUCKET: u64 = 4;

impl Conntrack {
    /// File and least value, in the order of writing: a table gets its buckets before its flows.
    fn wanted(&self, cores: usize) -> Vec<(&'static str, u64)> {
        let per_core = u64::from(self.max_per_core).saturating_mul(cores as u64);
        let max = match self.max_per_core {
            0 => 0,
            _ => per_core.max(self.min.into()),
        };
        [
            (BUCKETS, max / FLOWS_PER_BUCKET),
            (MAX, max),
            (
                "nf_conntrack_tcp_timeout_established",
                self.tcp_timeout_established.as_secs(),
            ),
            (
                "nf_conntrack_tcp_timeout_close_wait",
                self.tcp_timeout_close_wait.as_secs(),
            ),
            ("nf_conntrack_udp_timeout", self.udp_timeout.as_secs()),
            (
                "nf_conntrack_udp_timeout_stream",
                self.udp_timeout_stream.as_secs(),
            ),
            ("nf_conntrack_tcp_be_liberal", self.tcp_be_liberal.into()),
        ]
        .into_iter()
        .filter(|(_, least)| *least > 0)
        .collect()
    }

    /// Raises what is too low. A setting that cannot be raised is told to the log: nothing fails for it today.
    pub fn raise(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.raise_in(Path::new(ROOT), cores);
    }

    fn raise_in(&self, root: &Path, cores: usize) {
        for (file, least) in self.wanted(cores) {
            let path = root.join(file);
            match raise(&path, least) {
                Ok(None) => {}
                Ok(Some(was)) => {
                    tracing::info!(file, was, now = least, "connection tracking has more room")
                }
                // Sizes, in all namespaces but the machine's own: whoever made this one has chosen them.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::info!(file, wanted = least, %error, "connection tracking keeps its size, which is not this namespace's to change");
                }
                Err(error) => {
                    tracing::warn!(file, wanted = least, %error, "connection tracking keeps a setting that is too low");
                }
            }
        }
    }
}

/// What the file had, if that was less than `least`.
fn raise(path: &Path, least: u64) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(path)?;
    let now: u64 = text
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("{text:?} is not a number")))?;
    if now >= least {
        return Ok(None);
    }
    fs::write(path, least.to_string())?;
    Ok(Some(now))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn machine(files: &[(&str, u64)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (file, value) in files {
            fs::write(root.path().join(file), format!("{value}\n")).expect("write");
        }
        root
    }

    fn read(root: &tempfile::TempDir) -> BTreeMap<String, String> {
        let entries = fs::read_dir(root.path()).expect("list");
        let one = |entry: io::Result<fs::DirEntry>| {
            let path = entry.expect("entry").path();
            let name = path
                .file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned();
            (
                name,
                fs::read_to_string(path).expect("read").trim().to_owned(),
            )
        };
        entries.map(one).collect()
    }

    const KERNEL: [(&str, u64); 6] = [
        (BUCKETS, 16_384),
        (MAX, 65_536),
        ("nf_conntrack_tcp_timeout_established", 432_000),
        ("nf_conntrack_tcp_timeout_close_wait", 60),
        ("nf_conntrack_udp_timeout", 30),
        ("nf_conntrack_tcp_be_liberal", 0),
    ];

    #[test]
    fn what_is_too_low_is_raised_and_nothing_is_lowered() {
        let root = machine(&KERNEL);
        Conntrack::default().raise_in(root.path(), 2);
        let mut wanted = KERNEL.map(|(file, value)| (file.to_owned(), value.to_string()));
        wanted[0].1 = "32768".to_owned();
        wanted[1].1 = "131072".to_owned();
        wanted[3].1 = "3600".to_owned();
        assert_eq!(read(&root), BTreeMap::from(wanted.clone()));
        Conntrack::default().raise_in(root.path(), 8);
        (wanted[0].1, wanted[1].1) = ("65536".to_owned(), "262144".to_owned());
        assert_eq!(read(&root), BTreeMap::from(wanted.clone()), "8 cores");
        Conntrack::default().raise_in(root.path(), 1);
        assert_eq!(read(&root), BTreeMap::from(wanted), "never lowered");
    }

    #[test]
    fn zero_leaves_a_setting_alone_and_a_missing_file_stops_nothing() {
        let root = machine(&KERNEL);
        let settings = Conntrack {
            max_per_core: 0,
            tcp_timeout_established: Duration::ZERO,
            tcp_timeout_close_wait: Duration::ZERO,
            udp_timeout: Duration::from_secs(40),
            udp_timeout_stream: Duration::from_secs(200),
            tcp_be_liberal: true,
            ..Conntrack::default()
        };
        settings.raise_in(root.path(), 2);
        let mut wanted = KERNEL.map(|(file, value)| (file.to_owned(), value.to_string()));
        wanted[4].1 = "40".to_owned();
        wanted[5].1 = "1".to_owned();
        assert_eq!(
            read(&root),
            BTreeMap::from(wanted),
            "no file of UDP streams was made"
        );
    }
}
