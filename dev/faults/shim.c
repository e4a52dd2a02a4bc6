/* Fails chosen calls to the C library on files below one directory; loaded by LD_PRELOAD (shim.py).
 *
 * FAULTS_FILE names a file of lines, which is read at the start of each process and after each fork:
 *
 *   1  directory: calls on other files are passed on unseen; empty: all are
 *   2  file to which calls are written: all of them if line 4 is empty, else those that the fault struck
 *   3  file of one integer, shared by all processes: matching calls so far
 *   4  kind of call to strike, such as write
 *   5  pattern (fnmatch) of the path, relative to the directory
 *   6, 7  first and last number of the matching calls that are struck, counted from 1
 *   8  errno to fail with; "short": half of the bytes are read or written; "pause": the process stops itself before
 *      the call, and waits for SIGCONT
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SHORT (-1)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define LINES 8

static char content[4 * PATH_MAX];
static const char *under, *log_file, *call_wanted, *pattern, *action;
static long first, last, *count;

static void configure(void) {
    const char *name = getenv("FAULTS_FILE"), *line[LINES];
    if (count) syscall(SYS_munmap, count, sizeof(long));
    under = NULL;
    count = NULL;
    if (!name) return;
    int file = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY);
    ssize_t size = file < 0 ? 0 : syscall(SYS_read, file, content, sizeof content - 1);
    syscall(SYS_close, file);
    if (size <= 0) return;
    content[size] = 0;
    char *rest = content;
    for (int i = 0; i < LINES; i++) line[i] = rest ? strsep(&rest, "\n") : "";
    log_file = line[1];
    call_wanted = *line[3] ? line[3] : NULL;
    pattern = line[4];
    first = atol(line[5]);
    last = atol(line[6]);
    action = line[7];
    if (call_wanted) {
        file = syscall(SYS_openat, AT_FDCWD, line[2], O_RDWR);
        count = (void *)syscall(SYS_mmap, NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        syscall(SYS_close, file);
        if (count == MAP_FAILED) abort();
    }
    under = *line[0] ? line[0] : NULL; /* set last: before that, nothing is seen */
}

__attribute__((constructor)) static void start(void) {
    configure();
    pthread_atfork(NULL, NULL, configure);
}

static void note(const char *call, const char *path) {
    char line[PATH_MAX + 64];
    int size = snprintf(line, sizeof line, "%d\t%s\t%s\n", (int)getpid(), call, path);
    int file = syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_APPEND);
    if (size > 0 && syscall(SYS_write, file, line, size) != size) abort();
    syscall(SYS_close, file);
}

/* Return what to do to a call on an absolute path: 0 to pass it on, an errno, or SHORT. */
static int strike(const char *call, const char *path) {
    size_t length = strlen(under);
    if (strncmp(path, under, length) || (path[length] && path[length] != '/')) return 0;
    const char *relative = path[length] ? path + length + 1 : ".";
    if (!call_wanted) {
        note(call, relative);
        return 0;
    }
    if (strcmp(call_wanted, call)) return 0;
    if (fnmatch(pattern, relative, 0)) return 0;
    long number = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    if (number < first || number > last) return 0;
    note(call, relative);
    if (!strcmp(action, "pause")) {
        kill(getpid(), SIGSTOP);
        return 0;
    }
    return strcmp(action, "short") ? atoi(action) : SHORT;
}

static int at_descriptor(const char *call, int descriptor) {
    char link[64], path[PATH_MAX];
    if (!under || descriptor < 0) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    if (size <= 0) return 0;
    path[size] = 0;
    return strike(call, path);
}

static int at_path(const char *call, int directory, const char *name) {
    char link[64], path[2 * PATH_MAX];
    if (!under || !name || !*name) return 0;
    if (*name == '/') return strike(call, name);
    int before = errno;
    if (directory == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    errno = before;
    if (size <= 0) return 0;
    snprintf(path + size, PATH_MAX, "/%s", name);
    return strike(call, path);
}

#define FAIL_AS(found, failed) \
    do { int struck = (found); if (struck > 0) { errno = struck; return (failed); } } while (0)
#define HALVED(found, size) \
    do { int struck = (found); if (struck > 0) { errno = struck; return -1; } \
         if (struck == SHORT && (size) > 1) (size) /= 2; } while (0)

static const char *kind_of(int flags) { return flags & (O_CREAT | O_WRONLY | O_RDWR) ? "create" : "open"; }

#define MODE(flags) mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    MODE(flags) FAIL_AS(at_path(kind_of(flags), AT_FDCWD, path), -1); return REAL(name)(path, flags, mode); }
#define OPENAT(name) int name(int directory, const char *path, int flags, ...) { \
    MODE(flags) FAIL_AS(at_path(kind_of(flags), directory, path), -1); return REAL(name)(directory, path, flags, mode); }
#define FOPEN(name) FILE *name(const char *path, const char *how) { \
    FAIL_AS(at_path(*how == 'r' && !strchr(how, '+') ? "open" : "create", AT_FDCWD, path), NULL); \
    return REAL(name)(path, how); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)
DIR *opendir(const char *path) { FAIL_AS(at_path("open", AT_FDCWD, path), NULL); return REAL(opendir)(path); }

ssize_t read(int file, void *data, size_t size) {
    HALVED(at_descriptor("read", file), size); return REAL(read)(file, data, size); }
ssize_t pread(int file, void *data, size_t size, off_t at) {
    HALVED(at_descriptor("read", file), size); return REAL(pread)(file, data, size, at); }
ssize_t pread64(int file, void *data, size_t size, off64_t at) {
    HALVED(at_descriptor("read", file), size); return REAL(pread64)(file, data, size, at); }
ssize_t readv(int file, const struct iovec *parts, int number) {
    FAIL_AS(at_descriptor("read", file), -1); return REAL(readv)(file, parts, number); }
#define PREADV(name, offset, MORE, more) ssize_t name(int file, const struct iovec *parts, int number, offset at MORE) { \
    struct iovec only = number == 1 ? *parts : (struct iovec){0}; /* several parts are not halved */ \
    HALVED(at_descriptor("read", file), only.iov_len); \
    return REAL(name)(file, number == 1 ? &only : parts, number, at more); }
#define COMMA ,
PREADV(preadv, off_t, , ) PREADV(preadv64, off64_t, , )
PREADV(preadv2, off_t, COMMA int flags, COMMA flags) PREADV(preadv64v2, off64_t, COMMA int flags, COMMA flags)
ssize_t write(int file, const void *data, size_t size) {
    HALVED(at_descriptor("write", file), size); return REAL(write)(file, data, size); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    HALVED(at_descriptor("write", file), size); return REAL(pwrite)(file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    HALVED(at_descriptor("write", file), size); return REAL(pwrite64)(file, data, size, at); }
ssize_t writev(int file, const struct iovec *parts, int number) {
    FAIL_AS(at_descriptor("write", file), -1); return REAL(writev)(file, parts, number); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    HALVED(at_descriptor("write", to), size); return REAL(sendfile)(to, from, at, size); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    HALVED(at_descriptor("write", to), size); return REAL(sendfile64)(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *at, size_t size, unsigned flags) {
    HALVED(at_descriptor("write", to), size); return REAL(copy_file_range)(from, start, to, at, size, flags); }
int ftruncate(int file, off_t size) { FAIL_AS(at_descriptor("write", file), -1); return REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) {
    FAIL_AS(at_descriptor("write", file), -1); return REAL(ftruncate64)(file, size); }

int fsync(int file) { FAIL_AS(at_descriptor("fsync", file), -1); return REAL(fsync)(file); }
int fdatasync(int file) { FAIL_AS(at_descriptor("fsync", file), -1); return REAL(fdatasync)(file); }
int flock(int file, int how) { FAIL_AS(at_descriptor("flock", file), -1); return REAL(flock)(file, how); }
int close(int file) { /* as NFS reports a failed write */
    int failure = at_descriptor("close", file), result = REAL(close)(file);
    FAIL_AS(failure, -1);
    return result; }
void *mmap(void *address, size_t size, int protection, int flags, int file, off_t at) {
    FAIL_AS(at_descriptor("mmap", file), MAP_FAILED); return REAL(mmap)(address, size, protection, flags, file, at); }
void *mmap64(void *address, size_t size, int protection, int flags, int file, off64_t at) {
    FAIL_AS(at_descriptor("mmap", file), MAP_FAILED); return REAL(mmap64)(address, size, protection, flags, file, at); }

int rename(const char *from, const char *to) {
    FAIL_AS(at_path("rename", AT_FDCWD, to), -1); return REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    FAIL_AS(at_path("rename", b, to), -1); return REAL(renameat)(a, from, b, to); }
int link(const char *from, const char *to) {
    FAIL_AS(at_path("link", AT_FDCWD, to), -1); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    FAIL_AS(at_path("link", b, to), -1); return REAL(linkat)(a, from, b, to, flags); }
int symlink(const char *from, const char *to) {
    FAIL_AS(at_path("link", AT_FDCWD, to), -1); return REAL(symlink)(from, to); }
int unlink(const char *path) { FAIL_AS(at_path("unlink", AT_FDCWD, path), -1); return REAL(unlink)(path); }
int unlinkat(int directory, const char *path, int flags) {
    FAIL_AS(at_path("unlink", directory, path), -1); return REAL(unlinkat)(directory, path, flags); }
int rmdir(const char *path) { FAIL_AS(at_path("unlink", AT_FDCWD, path), -1); return REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) {
    FAIL_AS(at_path("mkdir", AT_FDCWD, path), -1); return REAL(mkdir)(path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) {
    FAIL_AS(at_path("mkdir", directory, path), -1); return REAL(mkdirat)(directory, path, mode); }

#define AT_PATH(name, call, type) int name(const char *path, type *found) { \
    FAIL_AS(at_path(call, AT_FDCWD, path), -1); return REAL(name)(path, found); }
#define AT_FILE(name, call, type) int name(int file, type *found) { \
    FAIL_AS(at_descriptor(call, file), -1); return REAL(name)(file, found); }
AT_PATH(stat, "stat", struct stat) AT_PATH(stat64, "stat", struct stat64)
AT_PATH(lstat, "stat", struct stat) AT_PATH(lstat64, "stat", struct stat64)
AT_FILE(fstat, "stat", struct stat) AT_FILE(fstat64, "stat", struct stat64)
AT_PATH(statfs, "statfs", struct statfs) AT_PATH(statfs64, "statfs", struct statfs64)
AT_FILE(fstatfs, "statfs", struct statfs) AT_FILE(fstatfs64, "statfs", struct statfs64)
AT_PATH(statvfs, "statfs", struct statvfs) AT_PATH(statvfs64, "statfs", struct statvfs64)
AT_FILE(fstatvfs, "statfs", struct statvfs) AT_FILE(fstatvfs64, "statfs", struct statvfs64)
int fstatat(int directory, const char *path, struct stat *found, int flags) {
    FAIL_AS(at_path("stat", directory, path), -1); return REAL(fstatat)(directory, path, found, flags); }
int fstatat64(int directory, const char *path, struct stat64 *found, int flags) {
    FAIL_AS(at_path("stat", directory, path), -1); return REAL(fstatat64)(directory, path, found, flags); }
