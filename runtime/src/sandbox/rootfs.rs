//! A container's file system, made inside its own mount namespace: nothing of it is ever visible outside.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, makedev, stat, umask},
    unistd::{chdir, pivot_root},
};

use super::{Failure, Surroundings};
use crate::spec::{ContainerSpec, Image, Mount, Network, PodSpec};

const NONE: Option<&str> = None;
/// The writable layer lives in memory. Without a bound of their own, empty files would fill it.
const ROOT_OPTIONS: &str = "mode=755,size=64m,nr_inodes=64k";
/// Where volumes wait in the new root until there is no old one any more.
const VOLUMES: &str = ".volumes";
/// Device nodes that every program may expect: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];
/// Files of /proc and /sys that tell about, or reach into, the machine. Files are covered by /dev/null, directories by an
/// empty read-only tmpfs.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    // How much power the processor draws tells about other containers' secrets (CVE-2020-8694).
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Builds the root file system and makes it `/`.
pub(super) fn enter(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<(), Failure> {
    umask(Mode::empty());
    let root = around.mount_point;
    step(
        "make the mounts private",
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE),
    )?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    step(
        "mount the root",
        mount(
            Some("tmpfs"),
            root,
            Some("tmpfs"),
            flags,
            Some(ROOT_OPTIONS),
        ),
    )?;
    match spec.image {
        Image::BuiltIn => built_in(root, around.built_in)?,
    }
    files(root, around.pod).map_err(|error| ("write /etc", error))?;
    step("change to the root", chdir(root))?;
    kernel_file_systems(around.pod)?;
    devices()?;
    hold(Path::new("."), &spec.mounts)?;
    // The new root over the old one, then the old one away: no directory for it is needed.
    step("change the root", pivot_root(".", "."))?;
    step("unmount the old root", umount2(".", MntFlags::MNT_DETACH))?;
    step("change to the new root", chdir("/"))?;
    protect()?;
    // A path with `..` or a link in it leads to a place inside, now that there is no outside.
    place(&spec.mounts)?;
    // Only now: a path with `..` in it must not lead out.
    fs::create_dir_all(&spec.working_dir).map_err(|error| ("make the working directory", error))?;
    if spec.read_only_root {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
        step(
            "make the root read-only",
            mount(NONE, "/", NONE, flags, NONE),
        )?;
    }
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Binds the directories of the node that are to be in the container to places of ours: `.volumes/0` and so on.
fn hold(root: &Path, mounts: &[Mount]) -> Result<(), Failure> {
    for (number, wanted) in mounts.iter().enumerate() {
        let place = root.join(VOLUMES).join(number.to_string());
        fs::create_dir_all(&place).map_err(|error| ("make a place for a volume", error))?;
        step(
            "bind a volume",
            mount(Some(&wanted.source), &place, NONE, MsFlags::MS_BIND, NONE),
        )?;
        // A bind mount takes its flags in a second step only.
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if wanted.read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        step("protect a volume", mount(NONE, &place, NONE, flags, NONE))?;
    }
    Ok(())
}

/// Moves them to the places they are wanted at.
fn place(mounts: &[Mount]) -> Result<(), Failure> {
    if mounts.is_empty() {
        return Ok(());
    }
    let held = Path::new("/").join(VOLUMES);
    for (number, wanted) in mounts.iter().enumerate() {
        let mut target = DirBuilder::new();
        target.recursive(true).mode(0o755);
        target
            .create(&wanted.target)
            .map_err(|error| ("make the mountPath of a volume", error))?;
        let from = held.join(number.to_string());
        step(
            "mount a volume",
            mount(
                Some(&from),
                wanted.target.as_str(),
                NONE,
                MsFlags::MS_MOVE,
                NONE,
            ),
        )?;
    }
    // One by one, and only what is empty: a mountPath, or a link in a volume, may have led a volume in here, whose files are
    // somebody's. Then the container does not start.
    (0..mounts.len())
        .map(|number| held.join(number.to_string()))
        .chain([held.clone()])
        .try_for_each(fs::remove_dir)
        .map_err(|error| {
            (
                "remove the places of volumes: no mountPath may be in /.volumes",
                error,
            )
        })
}

fn built_in(root: &Path, program: &Path) -> Result<(), Failure> {
    // There is no loader in the root: the exec would say "No such file" of a file that is there.
    if needs_loader(program).map_err(|error| ("read the built-in program", error))? {
        let hint = "it is not static: build it with -C target-feature=+crt-static";
        return Err(("use the built-in program", io::Error::other(hint)));
    }
    let target = root.join("minik");
    fs::write(&target, "").map_err(|error| ("make /minik", error))?;
    step(
        "mount /minik",
        mount(Some(program), &target, NONE, MsFlags::MS_BIND, NONE),
    )?;
    // A bind mount takes its flags in a second step only.
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV;
    step(
        "make /minik read-only",
        mount(NONE, &target, NONE, flags, NONE),
    )
}

/// Whether an executable names an interpreter: a 64-bit ELF file with a PT_INTERP program header (elf(5)).
fn needs_loader(program: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3_u32.to_ne_bytes();
    // The program headers follow the file's at once, in what every linker writes.
    let mut start = [0; 4096];
    let length = io::Read::read(&mut fs::File::open(program)?, &mut start)?;
    let word = |at: usize| usize::from(u16::from_ne_bytes([start[at], start[at + 1]]));
    // e_phoff's low half, e_phentsize, e_phnum.
    let (first, size, count) = (word(32), word(54), word(56));
    Ok((0..count)
        .map(|index| first + index * size)
        .take_while(|at| at + PT_INTERP.len() <= length)
        .any(|at| start[at..].starts_with(&PT_INTERP)))
}

fn files(root: &Path, pod: &PodSpec) -> io::Result<()> {
    for (dir, mode) in [
        ("etc", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("dev", 0o755),
        ("tmp", 0o1777),
        ("run", 0o755),
    ] {
        fs::create_dir(root.join(dir))?;
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(mode))?;
    }
    let hostname = format!("{}\n", pod.hostname);
    for (name, content) in [
        ("resolv.conf", pod.resolv_conf.as_str()),
        ("hosts", &pod.hosts),
        ("hostname", &hostname),
        (
            "passwd",
            "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
        ),
        ("group", "root:x:0:\nnobody:x:65534:\n"),
    ] {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(root.join("etc").join(name))?;
        io::Write::write_all(&mut file, content.as_bytes())?;
    }
    Ok(())
}

fn kernel_file_systems(pod: &PodSpec) -> Result<(), Failure> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step(
        "mount /proc",
        mount(Some("proc"), "proc", Some("proc"), safe, NONE),
    )?;
    let read_only = safe | MsFlags::MS_RDONLY;
    match pod.network {
        Network::Own => step(
            "mount /sys",
            mount(Some("sysfs"), "sys", Some("sysfs"), read_only, NONE),
        )?,
        Network::Host => {
            step(
                "mount /sys",
                mount(Some("/sys"), "sys", NONE, MsFlags::MS_BIND, NONE),
            )?;
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | read_only;
            step("make /sys read-only", mount(NONE, "sys", NONE, flags, NONE))?;
        }
    }
    step(
        "mount /dev",
        mount(
            Some("tmpfs"),
            "dev",
            Some("tmpfs"),
            safe,
            Some("mode=755,size=64k,nr_inodes=1k"),
        ),
    )?;
    for dir in ["dev/pts", "dev/shm"] {
        fs::create_dir(dir).map_err(|error| ("make a directory in /dev", error))?;
    }
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    step(
        "mount /dev/pts",
        mount(
            Some("devpts"),
            "dev/pts",
            Some("devpts"),
            terminals,
            options,
        ),
    )?;
    step(
        "mount /dev/shm",
        mount(
            Some("shm"),
            "dev/shm",
            Some("tmpfs"),
            safe,
            Some("mode=1777,size=64m,nr_inodes=64k"),
        ),
    )
}

/// The node's own device nodes, each bound on an empty file. Every file system of a container is mounted `nodev`, so these are
/// the only ones that open: what a container makes itself (MKNOD is among the default capabilities) reaches no disk.
///
/// They are the node's own inodes: bound read-only, a container's root can still write to the device, but neither take it from
/// every process of the node with chmod nor give it away with chown. What is masked with `/dev/null` inherits this.
fn devices() -> Result<(), Failure> {
    for (name, major, minor) in DEVICES {
        let path = Path::new("dev").join(name);
        fs::write(&path, "").map_err(|error| ("make a file for a device", error))?;
        let source = Path::new("/dev").join(name);
        step(
            "bind a device",
            mount(Some(&source), &path, NONE, MsFlags::MS_BIND, NONE),
        )?;
        let bound = stat(&path).map_err(|error| ("look at a device", error.into()))?;
        if bound.st_rdev != makedev(major, minor) {
            let error = io::Error::other(format!("{} is another device", source.display()));
            return Err(("bind a device", error));
        }
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NOEXEC;
        step("protect a device", mount(NONE, &path, NONE, flags, NONE))?;
    }
    LINKS
        .iter()
        .try_for_each(|(target, link)| symlink(target, link))
        .map_err(|error| ("link in /dev", error))
}

/// Covers what tells about the machine, and makes read-only what could change it.
fn protect() -> Result<(), Failure> {
    for path in MASKED {
        match fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(meta) if meta.is_dir() => {
                let flags = MsFlags::MS_RDONLY
                    | MsFlags::MS_NOSUID
                    | MsFlags::MS_NODEV
                    | MsFlags::MS_NOEXEC;
                step(
                    "mask a directory",
                    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("size=0")),
                )?;
            }
            Ok(_) => step(
                "mask a file",
                mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE),
            )?,
        }
    }
    for path in READ_ONLY
        .iter()
        .filter(|path| fs::symlink_metadata(path).is_ok())
    {
        step(
            "protect a path",
            mount(
                Some(*path),
                *path,
                NONE,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                NONE,
            ),
        )?;
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | safe;
        step(
            "make a path read-only",
            mount(NONE, *path, NONE, flags, NONE),
        )?;
    }
    Ok(())
}

fn step(what: &'static str, outcome: nix::Result<()>) -> Result<(), Failure> {
    outcome.map_err(|error| (what, error.into()))
}
