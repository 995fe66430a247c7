//! What runs inside the containers of `tests/pods.rs`: built by it as one static executable, without any crate.

use std::{env, fs, process::exit, thread, time::Duration};

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("say") => {
            println!("to stdout {}", env::var("GREETING").unwrap_or_default());
            eprintln!("to stderr");
            exit(args[1].parse().unwrap());
        }
        // As process 1 it has no handler for SIGTERM, so the kernel does not deliver it.
        Some("wait") => {
            println!("waiting");
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
        Some("look") => look(),
        Some("read") => {
            println!("content={}", fs::read_to_string(&args[1]).unwrap_or_else(|error| error.to_string()));
            println!("writable={}", fs::write(&args[1], "x").is_ok());
            println!("left={}", fs::metadata("/.volumes").is_ok());
        }
        // Until nobody writes any more.
        Some("repeat") => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
        }
        // Waits for a byte, so that somebody can attach before; then says more than any pipe holds.
        Some("flood") => {
            std::io::Read::read_exact(&mut std::io::stdin(), &mut [0]).unwrap();
            (0..50_000).for_each(|number| println!("line {number}"));
        }
        Some("terminal") => terminal(),
        // Far more than any test allows; written, so that it is really taken.
        Some("eat") => {
            let eaten = vec![1_u8; 256 << 20];
            println!("ate {}", eaten.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        }
        Some("exit") => exit(args[1].parse().unwrap()),
        other => panic!("unknown part {other:?}"),
    }
}

fn look() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    println!("pid={}", std::process::id());
    println!("capabilities={}", field("CapBnd:"));
    println!("effective={}", field("CapEff:"));
    println!("no-new-privileges={}", field("NoNewPrivs:"));
    println!("groups={}", field("Groups:"));
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let count = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    println!("processes={count}");
    let mut fds: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.file_name()).collect();
    fds.sort();
    // The fourth is the directory being read.
    println!("descriptors={}", fds.len() - 1);
    println!("hostname={}", fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    println!("kcore={}", fs::metadata("/proc/kcore").map(|meta| meta.len()).unwrap_or(0));
    println!("firmware={}", fs::read_dir("/sys/firmware").map(|dir| dir.count()).unwrap_or(0));
    println!("sysctl-writable={}", fs::write("/proc/sys/kernel/hostname", "x").is_ok());
    println!("program-writable={}", fs::write("/minik", "x").is_ok());
    println!("exe-writable={}", fs::write("/proc/self/exe", "x").is_ok());
    println!("root-writable={}", fs::write("/file", "x").is_ok());
    println!("resolv={}", fs::read_to_string("/etc/resolv.conf").unwrap().trim());
    let mut interfaces: Vec<_> = fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| fs::metadata(format!("/sys/class/net/{name}/ifindex")).is_ok())
        .collect();
    interfaces.sort();
    println!("interfaces={}", interfaces.join(","));
    println!("cgroups={}", fs::read_to_string("/proc/self/cgroup").unwrap().lines().filter(|line| !line.ends_with(":/")).count());
    println!("own-device={}", ["/dev/evil", "/tmp/evil"].map(own_zero).join(","));
    println!("null={}", fs::write("/dev/null", "x").is_ok());
    println!("node-devices={}", ["/dev/null", "/dev/zero", "/dev/tty", "/proc/kcore"].map(change_mode).join(","));
    println!("power={}", fs::read_dir("/sys/devices/virtual/powercap").map(|dir| dir.count()).unwrap_or(0));
}

fn terminal() {
    use std::{io::IsTerminal, os::unix::fs::MetadataExt};
    let are = [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    println!("terminals={are:?}");
    println!("controlling={}", fs::File::open("/dev/tty").is_ok());
    println!("owner={}", fs::metadata("/proc/self/fd/0").unwrap().uid());
    println!("name={}", fs::read_link("/proc/self/fd/0").unwrap().display());
    println!("term={}", env::var("TERM").unwrap_or_default());
}

/// Gives a device node of the machine the permissions it has: allowed, it could as well take them away.
fn change_mode(path: &str) -> &'static str {
    let Ok(meta) = fs::metadata(path) else { return "refused" };
    if fs::set_permissions(path, meta.permissions()).is_ok() { "changed" } else { "refused" }
}

/// Makes a device node like /dev/zero, as root may, and tries to use it.
fn own_zero(path: &str) -> &'static str {
    unsafe extern "C" {
        fn mknod(path: *const std::ffi::c_char, mode: u32, device: u64) -> i32;
    }
    const CHARACTER_DEVICE: u32 = 0o020_666;
    let text = std::ffi::CString::new(path).unwrap();
    if unsafe { mknod(text.as_ptr(), CHARACTER_DEVICE, 0x105) } != 0 {
        return "not made";
    }
    if fs::File::open(path).is_ok() { "opened" } else { "refused" }
}
