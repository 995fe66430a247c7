// Records what a process does to the files below $RECORD_ROOT, in order, into $RECORD_LOG (see disk.rs for the reader).
//
// One lock is held over each change and its record, so the log's order is the order in which changes happened. A sync
// is recorded when it begins and when it has returned: only what was written before its beginning is safe at its end.
// sync_file_range is not recorded: it promises nothing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_len;
static int log_fd = -1;
static uint64_t tokens;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off_t);
static int (*real_rename)(const char *, const char *), (*real_mkdir)(const char *, mode_t);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_openat)(int, const char *, int, ...);

__attribute__((constructor)) static void start(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    root = getenv("RECORD_ROOT");
    const char *log = getenv("RECORD_LOG");
    if (!root || !log) return;
    root_len = strlen(root);
    log_fd = real_openat(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) abort();
}

static int recorded(const char *path) {
    return log_fd >= 0 && strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

// The path an open file has now; 0 when it is none of ours.
static int path_of(int fd, char *path) {
    if (log_fd < 0 || fd == log_fd) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return recorded(path) && !strstr(path, " (deleted)");
}

static int path_at(int dir, const char *name, char *path) {
    if (log_fd < 0) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else if (!path_of(dir, base)) {
            return 0;
        }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) abort();
    }
    return recorded(path);
}

static void put(const void *bytes, size_t len) {
    const char *at = bytes;
    while (len) {
        ssize_t n = real_write(log_fd, at, len);
        if (n <= 0) abort();
        at += n;
        len -= n;
    }
}

// kind, number, length of path, length of data (all u64), path, data
static void record(char kind, uint64_t number, const char *path, const void *data, size_t len) {
    uint64_t head[4] = {kind, number, strlen(path), len};
    put(head, sizeof head);
    put(path, head[2]);
    put(data, len);
}

static int open_at(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !path_at(dir, name, path)) return real_openat(dir, name, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = faccessat(dir, name, F_OK, 0) == 0;
    int fd = real_openat(dir, name, flags, mode);
    if (fd >= 0 && !existed) record('c', 0, path, 0, 0);
    if (fd >= 0 && existed && (flags & O_TRUNC)) record('t', 0, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(NAME) \
    int NAME(const char *name, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return open_at(AT_FDCWD, name, flags, mode); \
    }
#define OPENAT(NAME) \
    int NAME(int dir, const char *name, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return open_at(dir, name, flags, mode); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t len) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_write(fd, bytes, len);
    pthread_mutex_lock(&lock);
    ssize_t n = real_write(fd, bytes, len);
    if (n > 0) record('w', lseek(fd, 0, SEEK_CUR) - n, path, bytes, n);
    // The workload asks to be killed here, where no other change is half recorded.
    size_t end = strlen(path);
    if (n > 0 && end > 5 && !strcmp(path + end - 5, "/ACKS") && *(const char *)bytes == 'K') kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&lock);
    return n;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t offset) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_pwrite(fd, bytes, len, offset);
    pthread_mutex_lock(&lock);
    ssize_t n = real_pwrite(fd, bytes, len, offset);
    if (n > 0) record('w', offset, path, bytes, n);
    pthread_mutex_unlock(&lock);
    return n;
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) { return pwrite64(fd, bytes, len, offset); }

// Short writes are allowed: the first part alone keeps the record simple.
ssize_t writev(int fd, const struct iovec *parts, int count) {
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len) return write(fd, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

int ftruncate64(int fd, off_t size) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    int failed = real_ftruncate(fd, size);
    if (!failed) record('t', size, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd);
    pthread_mutex_lock(&lock);
    uint64_t token = ((uint64_t)getpid() << 32) | ++tokens;
    record('b', token, path, 0, 0);
    pthread_mutex_unlock(&lock);
    int failed = real(fd);
    pthread_mutex_lock(&lock);
    if (!failed) record('e', token, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int rename(const char *from, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    if (!path_at(AT_FDCWD, from, old) || !path_at(AT_FDCWD, to, new)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int failed = real_rename(from, to);
    if (!failed) record('r', 0, old, new, strlen(new));
    pthread_mutex_unlock(&lock);
    return failed;
}

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!path_at(AT_FDCWD, name, path)) return real_mkdir(name, mode);
    pthread_mutex_lock(&lock);
    int failed = real_mkdir(name, mode);
    if (!failed) record('d', 0, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}

int unlinkat(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return real_unlinkat(dir, name, flags);
    pthread_mutex_lock(&lock);
    int failed = real_unlinkat(dir, name, flags);
    if (!failed) record('u', 0, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
