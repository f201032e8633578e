// The host name by every way that C has, and whether that name leads anywhere.
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void) {
    char name[65], room[4] = "???";
    struct utsname about, kernels;
    gethostname(name, sizeof name);
    uname(&about);
    syscall(SYS_uname, &kernels);
    printf("%s %s %s\n", name, about.nodename, kernels.nodename);
    volatile size_t small = 3;
    int cut = gethostname(room, small);
    printf("%d %d %.3s\n", cut, errno == ENAMETOOLONG, room);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    printf("%d %s\n", getaddrinfo(name, "80", &hints, &found), gethostbyname(name) ? "found" : "unknown");
    return 0;
}
