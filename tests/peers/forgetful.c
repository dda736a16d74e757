/* A disk that forgets, for one process (LD_PRELOAD), as Linux lets a real one do: a sync that fails reports it once, its pages count as
   clean and are not on the disk, and later syncs succeed. What every page below DISK_FOLDER was before it was written is kept in
   DISK_SIDE/undo until it is durable, so that whoever cuts the power, or evicts the cache, can put it back.

   DISK_SIDE/fail holds a number and a part of a path with a $ behind it ("2 .new$"): the so many-th sync of such a file fails, or the so many-th write of one
   that is opened with O_DSYNC. The file is removed when that has happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, PLACES = 1 << 15, FREE = 0, WRITTEN = 1, LOST = 2 };
struct place { uint64_t inode, page, state; unsigned char before[PAGE]; };

static struct place *places;
static int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static char fail_path[4096];
static int seen;
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_unlink)(const char *), (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    folder = getenv("DISK_FOLDER");
    char undo[4096];
    snprintf(undo, sizeof undo, "%s/undo", getenv("DISK_SIDE"));
    snprintf(fail_path, sizeof fail_path, "%s/fail", getenv("DISK_SIDE"));
    int fd = open(undo, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)PLACES * sizeof(struct place)) != 0) abort();
    places = mmap(NULL, PLACES * sizeof(struct place), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (places == MAP_FAILED) abort();
    close(fd);
}

/* The path, if it is below the folder. */
static int is_ours(int fd, char *path, size_t length) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, path, length - 1);
    if (got <= 0 || !folder) return 0;
    path[got] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(const char *path) {
    char text[256];
    int fd = open(fail_path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0) return 0;
    text[got] = 0;
    char *name = strchr(text, ' '), whole[4097];
    snprintf(whole, sizeof whole, "%s$", path);
    if (!name || !strstr(whole, name + 1) || ++seen < atoi(text)) return 0;
    seen = 0;
    real_unlink(fail_path);
    return 1;
}

static struct place *find(uint64_t inode, uint64_t page) {
    for (int at = 0; at < used; at++)
        if (places[at].state != FREE && places[at].inode == inode && places[at].page == page) return &places[at];
    return NULL;
}

/* Keeps what a range is before it is written. */
static void keep(const char *path, uint64_t inode, off64_t from, size_t length) {
    int fd = open(path, O_RDONLY); /* The other one may be for writing only. */
    for (uint64_t page = from / PAGE; page <= (from + length - 1) / PAGE; page++) {
        struct place *place = find(inode, page);
        if (!place) {
            int at = 0;
            while (at < used && places[at].state != FREE) at++;
            if (at == PLACES) abort();
            if (at == used) used++;
            place = &places[at];
            memset(place->before, 0, PAGE);
            if (pread(fd, place->before, PAGE, page * PAGE) < 0) abort();
            place->inode = inode;
            place->page = page;
        }
        place->state = WRITTEN;
    }
    close(fd);
}

static ssize_t written(int fd, const void *octets, size_t length, off64_t at, int has_place) {
    char path[4096];
    struct stat stat;
    int flags = fcntl(fd, F_GETFL);
    if (length > 0 && is_ours(fd, path, sizeof path) && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
        pthread_mutex_lock(&lock);
        int failed = (flags & O_DSYNC) && fails(path);
        if (!(flags & O_DSYNC)) keep(path, stat.st_ino, has_place ? at : lseek(fd, 0, SEEK_CUR), length);
        pthread_mutex_unlock(&lock);
        if (failed) return errno = EIO, -1;
    }
    return has_place ? real_pwrite(fd, octets, length, at) : real_write(fd, octets, length);
}

ssize_t pwrite64(int fd, const void *octets, size_t length, off64_t at) { return written(fd, octets, length, at, 1); }
ssize_t pwrite(int fd, const void *octets, size_t length, off_t at) { return written(fd, octets, length, at, 1); }
ssize_t write(int fd, const void *octets, size_t length) { return written(fd, octets, length, 0, 0); }

static int synced(int fd, int (*sync)(int)) {
    char path[4096];
    struct stat stat;
    if (!is_ours(fd, path, sizeof path) || fstat(fd, &stat) != 0) return sync(fd);
    pthread_mutex_lock(&lock);
    int failed = fails(path);
    int result = failed ? -1 : sync(fd);
    for (int at = 0; at < used; at++)
        if (places[at].state == WRITTEN && places[at].inode == stat.st_ino) places[at].state = failed ? LOST : FREE;
    pthread_mutex_unlock(&lock);
    return failed ? errno = EIO, -1 : result;
}

/* Its number may be another file's next. */
static void gone(const char *path) {
    struct stat stat;
    if (lstat(path, &stat) != 0) return;
    pthread_mutex_lock(&lock);
    for (int at = 0; at < used; at++)
        if (places[at].inode == stat.st_ino) places[at].state = FREE;
    pthread_mutex_unlock(&lock);
}

int unlink(const char *path) { return gone(path), real_unlink(path); }
int rename(const char *from, const char *to) { return gone(to), real_rename(from, to); }
int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }
