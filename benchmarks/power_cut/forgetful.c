/* A disk that forgets what nobody synced, as a library to preload (LD_PRELOAD).
 *
 * It notes in $FORGETFUL_MIRROR what a power cut at this instant would leave: a file is what it was
 * at its last fsync or fdatasync, a folder's entries are those of its own last fsync, and sync()
 * notes everything under $FORGETFUL_ROOT. What was never synced is not there. A file whose path
 * holds $FORGETFUL_CONTROL is never noted: the control, which must lose.
 *
 * gcc -shared -fPIC -O2 -o forgetful.so forgetful.c -ldl
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* An inode's number may be given again, its time of birth with it not. */
static int identity(int fd, const char *path, char *out, size_t size, mode_t *mode) {
    struct statx found;
    int flags = path ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH;
    if (statx(path ? AT_FDCWD : fd, path ? path : "", flags, STATX_BASIC_STATS | STATX_BTIME, &found))
        return -1;
    *mode = found.stx_mode;
    snprintf(out, size, "%llu-%lld-%u", (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    return 0;
}

static void replace(const char *mirror, const char *kind, const char *id, const char *temporary) {
    char target[PATH_MAX];
    snprintf(target, sizeof target, "%s/%s-%s", mirror, kind, id);
    rename(temporary, target);
}

static void note_file(const char *mirror, const char *id, const char *path) {
    char temporary[PATH_MAX], block[1 << 16];
    snprintf(temporary, sizeof temporary, "%s/.new-%d-%s", mirror, getpid(), id);
    int from = open(path, O_RDONLY | O_CLOEXEC);
    int to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t got;
    while (from >= 0 && to >= 0 && (got = read(from, block, sizeof block)) > 0)
        if (write(to, block, got) != got) abort();
    if (from >= 0) close(from);
    if (to >= 0) close(to);
    replace(mirror, "file", id, temporary);
}

static void note_folder(const char *mirror, const char *id, const char *path) {
    char temporary[PATH_MAX], one[PATH_MAX], own[128];
    mode_t mode;
    snprintf(temporary, sizeof temporary, "%s/.new-%d-%s", mirror, getpid(), id);
    FILE *to = fopen(temporary, "we");
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (to && folder && (entry = readdir(folder))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(one, sizeof one, "%s/%s", path, entry->d_name);
        if (identity(-1, one, own, sizeof own, &mode)) continue;
        if (S_ISREG(mode) || S_ISDIR(mode))
            fprintf(to, "%s %s %s\n", S_ISDIR(mode) ? "folder" : "file", own, entry->d_name);
    }
    if (folder) closedir(folder);
    if (to) fclose(to);
    replace(mirror, "folder", id, temporary);
}

static void note(const char *path, int fd) {
    const char *mirror = getenv("FORGETFUL_MIRROR");
    const char *root = getenv("FORGETFUL_ROOT");
    const char *control = getenv("FORGETFUL_CONTROL");
    char id[128];
    mode_t mode;
    if (!mirror || !root || strncmp(path, root, strlen(root))) return;
    if (control && *control && strstr(path, control)) return;
    if (identity(fd, fd < 0 ? path : NULL, id, sizeof id, &mode)) return;
    if (S_ISREG(mode)) note_file(mirror, id, path);
    if (S_ISDIR(mode)) note_folder(mirror, id, path);
}

static int noted(int fd, int done) {
    char link[64], path[PATH_MAX];
    if (done) return done;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        pthread_mutex_lock(&lock);
        note(path, fd);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return noted(fd, real(fd));
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return noted(fd, real(fd));
}

static int visit(const char *path, const struct stat *found, int kind, struct FTW *where) {
    (void)found, (void)kind, (void)where;
    note(path, -1);
    return 0;
}

void sync(void) {
    const char *root = getenv("FORGETFUL_ROOT");
    pthread_mutex_lock(&lock);
    if (root) nftw(root, visit, 16, FTW_PHYS);
    pthread_mutex_unlock(&lock);
}
