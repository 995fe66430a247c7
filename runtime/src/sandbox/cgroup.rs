//! Control groups, v2 and the hybrid v1: limits, and the list of processes that belong to a Pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

use crate::{
    error::{Explain, RuntimeError},
    sandbox::syscall::{kill_process, pidfd_open},
    spec::Limits,
};

/// The v1 hierarchies that are used. Joining one costs milliseconds, so others are left alone.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];
/// The kernel lets go of an emptied group a moment after its last process ended.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// The limits of swap, v2's and v1's.
const SWAP_FILES: [&str; 2] = ["memory.swap.max", "memory.memsw.limit_in_bytes"];
/// Descriptors taken at once to kill processes.
const PIDFDS: usize = 64;
const CPU_PERIOD_US: u64 = 100_000;

/// One group, in every hierarchy that is used.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    /// `None` on v2, where one group has every controller.
    controller: Option<&'static str>,
    root: PathBuf,
    dir: PathBuf,
}

impl Cgroup {
    /// The group of this path below the roots. Nothing is made yet.
    pub(crate) fn named(path: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = roots(&mounts)
            .into_iter()
            .map(|(controller, root)| Place {
                controller,
                dir: root.join(path),
                root,
            })
            .collect();
        Self { places }
    }

    /// A group below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        let places = self
            .places
            .iter()
            .map(|place| Place {
                dir: place.dir.join(name),
                ..place.clone()
            })
            .collect();
        Self { places }
    }

    /// Makes the group with its limits. A machine without cgroups runs containers without limits.
    pub(crate) fn create(&self, limits: &Limits) -> Result<(), RuntimeError> {
        for place in &self.places {
            if place.controller.is_none() {
                delegate(place);
            }
            fs::create_dir_all(&place.dir).explain("create cgroup", place.dir.display())?;
            for (file, value) in settings(place.controller, limits) {
                let path = place.dir.join(file);
                // A kernel that does not count swap has no such file.
                if SWAP_FILES.contains(&file) && !path.exists() {
                    continue;
                }
                fs::write(&path, &value)
                    .explain("set", format!("{} to {value}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The files to which a process writes `0` to join.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        self.places
            .iter()
            .map(|place| place.dir.join("cgroup.procs"))
            .collect()
    }

    /// How often the kernel ended a process of this group for its memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let files = self.places.iter().map(|place| match place.controller {
            None => place.dir.join("memory.events"),
            Some(_) => place.dir.join("memory.oom_control"),
        });
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .filter_map(|text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
            })
            .sum()
    }

    /// Kills every process in this group and below it.
    pub(crate) fn kill_all(&self) {
        for place in &self.places {
            if place.controller.is_none() && fs::write(place.dir.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for_each_dir(&place.dir, &mut |dir| {
                for some in processes(dir).chunks(PIDFDS) {
                    // First a hold on each, then the look at who is (still) in the group: a pid that was given to another
                    // process in between is not killed.
                    let held: Vec<_> = some
                        .iter()
                        .filter_map(|pid| Some((*pid, pidfd_open(Pid::from_raw(*pid)).ok()?)))
                        .collect();
                    let members = processes(dir);
                    for (_, pidfd) in held.iter().filter(|(pid, _)| members.contains(pid)) {
                        // One that has just ended is as good.
                        let _ = kill_process(pidfd);
                    }
                }
            });
        }
    }

    /// Ends what is in the group and removes it.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        for place in &self.places {
            loop {
                match remove_tree(&place.dir) {
                    Ok(()) => break,
                    Err(error)
                        if error.kind() == io::ErrorKind::ResourceBusy
                            && Instant::now() < deadline =>
                    {
                        self.kill_all();
                        thread::sleep(RETRY_PAUSE);
                    }
                    Err(error) => return Err(error).explain("remove cgroup", place.dir.display()),
                }
            }
        }
        Ok(())
    }
}

/// The processes of a group itself, by their pids here; the kernel shows those of other PID namespaces as 0.
fn processes(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Which hierarchies to use, by what is mounted: v2 alone, or the v1 ones.
fn roots(mounts: &str) -> Vec<(Option<&'static str>, PathBuf)> {
    let mut v1 = Vec::new();
    let mut v2 = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(target), Some(kind), Some(options)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        match kind {
            "cgroup" => {
                let found = CONTROLLERS
                    .iter()
                    .filter(|name| options.split(',').any(|option| option == **name));
                v1.extend(found.map(|name| (Some(*name), PathBuf::from(target))));
            }
            "cgroup2" => v2 = Some((None, PathBuf::from(target))),
            _ => {}
        }
    }
    if v1.is_empty() {
        v2.into_iter().collect()
    } else {
        v1
    }
}

/// On v2 a controller works in a group only when every group above hands it down.
fn delegate(place: &Place) {
    let Ok(below) = place.dir.strip_prefix(&place.root) else {
        return;
    };
    let mut dir = place.root.clone();
    for part in below.parent().into_iter().flat_map(Path::components) {
        enable(&dir);
        dir.push(part);
        // Made here when missing; a failure shows when the group itself is made.
        let _ = fs::create_dir(&dir);
    }
    enable(&dir);
}

fn enable(dir: &Path) {
    for controller in CONTROLLERS {
        // A controller that this machine does not offer leaves its limit unenforced, as everywhere.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// The files to write for a group's limits.
fn settings(controller: Option<&str>, limits: &Limits) -> Vec<(&'static str, String)> {
    let wants = |name: &str| controller.is_none_or(|controller| controller == name);
    let v2 = controller.is_none();
    let mut files = Vec::new();
    if let Some(pids) = limits.pids.filter(|_| wants("pids")) {
        files.push(("pids.max", pids.to_string()));
    }
    if let Some(bytes) = limits.memory_bytes.filter(|_| wants("memory")) {
        files.push((
            if v2 {
                "memory.max"
            } else {
                "memory.limit_in_bytes"
            },
            bytes.to_string(),
        ));
        // Without this a container takes as much again from swap. v1 counts memory and swap together, v2 apart.
        files.push(if v2 {
            (SWAP_FILES[0], "0".to_owned())
        } else {
            (SWAP_FILES[1], bytes.to_string())
        });
    }
    if let Some(millis) = limits.cpu_millis.filter(|_| wants("cpu")) {
        let quota = (millis * CPU_PERIOD_US / 1000).max(1000);
        if v2 {
            files.push(("cpu.max", format!("{quota} {CPU_PERIOD_US}")));
        } else {
            files.push(("cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
            files.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    files
}

fn for_each_dir(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    visit(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            for_each_dir(&entry.path(), visit);
        }
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_uses_v1_and_a_pure_one_v2() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let hybrid = roots(&format!("{v1}{v2}"));
        assert_eq!(
            hybrid.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            [Some("cpu"), Some("pids")]
        );
        assert_eq!(roots(v2), [(None, PathBuf::from("/sys/fs/cgroup"))]);
        assert_eq!(roots(""), []);
    }

    #[test]
    fn limits_become_the_files_of_their_version() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_millis: Some(500),
            pids: Some(10),
        };
        let v2 = [
            ("pids.max", "10"),
            ("memory.max", "1048576"),
            ("memory.swap.max", "0"),
            ("cpu.max", "50000 100000"),
        ];
        assert_eq!(
            settings(None, &limits),
            v2.map(|(file, value)| (file, value.to_owned()))
        );
        assert_eq!(
            settings(Some("memory"), &limits),
            [
                ("memory.limit_in_bytes", "1048576".to_owned()),
                ("memory.memsw.limit_in_bytes", "1048576".to_owned())
            ]
        );
        assert_eq!(settings(Some("pids"), &Limits::default()), []);
    }
}
