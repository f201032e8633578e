// A server in plain C, in the ways that such servers are written. `server MODE PORT`: answers each connection with
// "client=A:P own=A:P pid=N", after a request line. "QUIT" closes the listener and goes on living; "EXIT" ends the process.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) { perror(what); exit(1); }

static void name_of(const struct sockaddr_storage *a, char *out, size_t n) {
    char ip[64];
    if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)a;
        inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
        snprintf(out, n, "[%s]:%d", ip, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const void *)a;
        inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
        snprintf(out, n, "%s:%d", ip, ntohs(v4->sin_port));
    }
}

static int bind_on(const char *address, int port, int reuseport) {
    struct sockaddr_storage a = {0};
    socklen_t length;
    if (strchr(address, ':')) {
        struct sockaddr_in6 *v6 = (void *)&a;
        v6->sin6_family = AF_INET6, v6->sin6_port = htons(port), length = sizeof *v6;
        inet_pton(AF_INET6, address, &v6->sin6_addr);
    } else {
        struct sockaddr_in *v4 = (void *)&a;
        v4->sin_family = AF_INET, v4->sin_port = htons(port), length = sizeof *v4;
        inet_pton(AF_INET, address, &v4->sin_addr);
    }
    int fd = socket(a.ss_family, SOCK_STREAM, 0), one = 1;
    if (reuseport) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    else setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, length)) die("bind");
    return fd;
}

static int listen_on(const char *address, int port, int reuseport) {
    int fd = bind_on(address, port, reuseport);
    if (listen(fd, 64)) die("listen");
    return fd;
}

static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(fd, level, name, &value, &length);
    return value;
}

static void say_options(int fd) {
    printf("cloexec=%d flags=%x reuse=%d buffer=%d/%d idle=%d defer=%d v6only=%d\n", fcntl(fd, F_GETFD), fcntl(fd, F_GETFL),
           option(fd, SOL_SOCKET, SO_REUSEADDR), option(fd, SOL_SOCKET, SO_RCVBUF), option(fd, SOL_SOCKET, SO_SNDBUF),
           option(fd, IPPROTO_TCP, TCP_KEEPIDLE), option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT), option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    fflush(stdout);
}

static void say_bound(int fd) {
    struct sockaddr_storage a = {0};
    socklen_t length = sizeof a;
    char text[100];
    if (getsockname(fd, (void *)&a, &length)) die("getsockname");
    name_of(&a, text, sizeof text);
    printf("bound %s\n", text);
    fflush(stdout);
}

// Answers, and checks that accept and getpeername agree. Returns 'Q', 'E' or 0.
static int answer(int fd, const struct sockaddr_storage *accepted) {
    struct sockaddr_storage peer = {0}, own = {0};
    socklen_t length = sizeof peer, own_length = sizeof own;
    char client[100], by_accept[100], self[100], request[200] = {0}, reply[400];
    if (getpeername(fd, (void *)&peer, &length)) strcpy(client, "?"); else name_of(&peer, client, sizeof client);
    if (getsockname(fd, (void *)&own, &own_length)) strcpy(self, "?"); else name_of(&own, self, sizeof self);
    if (accepted) {
        name_of(accepted, by_accept, sizeof by_accept);
        if (strcmp(client, by_accept)) snprintf(client, sizeof client, "accept and getpeername differ");
    }
    if (read(fd, request, sizeof request - 1) < 0) request[0] = 0;
    int n = snprintf(reply, sizeof reply, "client=%s own=%s pid=%d\n", client, self, getpid());
    if (write(fd, reply, n) != n) perror("write");
    close(fd);
    return strncmp(request, "QUIT", 4) == 0 ? 'Q' : strncmp(request, "EXIT", 4) == 0 ? 'E' : 0;
}

static int accept_one(int listener) {
    struct sockaddr_storage a = {0};
    socklen_t length = sizeof a;
    int fd = accept(listener, (void *)&a, &length);
    if (fd < 0) return 0;
    return answer(fd, &a);
}

static void serve(int listener) {
    alarm(120);
    for (;;) {
        int word = accept_one(listener);
        if (word == 'E') exit(0);
        if (word == 'Q') { close(listener); for (;;) pause(); }
    }
}

static void *cancelled(void *listener) { accept(*(int *)listener, NULL, NULL); return NULL; }
static int signal_listener = -1;
static void close_in_handler(int number) { (void)number; close(signal_listener); }

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *mode = argv[1];
    int port = atoi(argv[2]);
    const char *address = argc > 3 ? argv[3] : "0.0.0.0";
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    if (!strcmp(mode, "inherited")) { say_bound(port); serve(port); }
    if (!strcmp(mode, "inetd")) { answer(0, NULL); return 0; }
    if (!strcmp(mode, "twice")) {
        listen_on(address, port, 0);
        listen_on(address, port, 0); // Dies: the address is in use.
        puts("twice!");
        return 0;
    }
    if (!strcmp(mode, "group")) {
        int one = listen_on(address, port, 1), two = listen_on(address, port, 1);
        say_bound(one);
        say_bound(two);
        if (fork()) { close(one); serve(two); } else { close(two); serve(one); }
    }
    if (!strcmp(mode, "client")) { // Connects to where another process of the session believes to listen.
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        char reply[400] = {0};
        struct sockaddr_storage peer = {0};
        socklen_t length = sizeof peer;
        if (connect(fd, (void *)&a, sizeof a)) die("connect");
        if (getpeername(fd, (void *)&peer, &length)) die("getpeername");
        char text[100];
        name_of(&peer, text, sizeof text);
        if (write(fd, "hello\n", 6) != 6 || read(fd, reply, sizeof reply - 1) < 0) die("talk");
        printf("peer %s %s", text, reply);
        return 0;
    }
    int listener;
    if (!strcmp(mode, "late")) { // Listens on SIGUSR1, long after it has bound; what others do meanwhile is the test's.
        sigset_t awaited;
        sigemptyset(&awaited);
        sigaddset(&awaited, SIGUSR1);
        sigprocmask(SIG_BLOCK, &awaited, NULL);
        int size = 300000, idle = 77, got;
        listener = bind_on(address, port, 0);
        setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(listener, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        fcntl(listener, F_SETFD, FD_CLOEXEC);
        fcntl(listener, F_SETFL, O_NONBLOCK);
        int copy = dup(listener);
        say_options(listener);
        say_options(copy);
        alarm(120);
        sigwait(&awaited, &got);
        if (listen(listener, 64)) die("listen");
        say_options(listener);
        say_options(copy);
        close(listener);
        listener = copy;
        mode = "poll";
    } else {
        listener = listen_on(address, port, 0);
    }
    say_bound(listener);
    if (!strcmp(mode, "accept")) serve(listener);
    if (!strcmp(mode, "poll")) {
        alarm(120);
        fcntl(listener, F_SETFL, O_NONBLOCK);
        struct pollfd p = {.fd = listener, .events = POLLIN};
        for (;;) if (poll(&p, 1, -1) > 0) { errno = 0; if (accept_one(listener) == 'E') return 0; }
    }
    if (!strcmp(mode, "select")) {
        alarm(120);
        for (;;) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(listener, &set);
            if (select(listener + 1, &set, NULL, NULL, NULL) > 0 && accept_one(listener) == 'E') return 0;
        }
    }
    if (!strcmp(mode, "prefork")) {
        for (int i = 0; i < 3; i++) if (!fork()) serve(listener);
        close(listener); // The children hold it.
        puts("forked");
        fflush(stdout);
        alarm(120);
        for (;;) pause();
    }
    if (!strcmp(mode, "forking")) {
        alarm(120);
        for (;;) {
            struct sockaddr_storage a = {0};
            socklen_t length = sizeof a;
            int fd = accept(listener, (void *)&a, &length);
            if (fd < 0) continue;
            if (!fork()) { close(listener); answer(fd, &a); _exit(0); }
            close(fd);
        }
    }
    if (!strcmp(mode, "doublefork")) {
        if (fork()) _exit(0);
        setsid();
        if (fork()) _exit(0);
        serve(listener);
    }
    if (!strcmp(mode, "daemon")) { if (daemon(1, 0)) die("daemon"); serve(listener); }
    if (!strcmp(mode, "exec")) {
        char number[20];
        snprintf(number, sizeof number, "%d", listener);
        execl("/proc/self/exe", "server", "inherited", number, NULL);
        die("exec");
    }
    if (!strcmp(mode, "execinetd")) {
        alarm(120);
        for (;;) {
            int fd = accept(listener, NULL, NULL);
            if (fork()) { close(fd); continue; }
            dup2(fd, 0);
            closefrom(3);
            execl("/proc/self/exe", "server", "inetd", "0", NULL);
        }
    }
    if (!strcmp(mode, "dup2")) { dup2(listener, 77); close(listener); serve(77); }
    if (!strcmp(mode, "dup")) { int copy = dup(listener); dup2(1, listener); serve(copy); }
    if (!strcmp(mode, "fcntl")) { int copy = fcntl(listener, F_DUPFD_CLOEXEC, 50); close(listener); serve(copy); }
    if (!strcmp(mode, "closeall")) { // As old daemons do: whatever is not theirs goes.
        int closed = 0;
        for (int fd = 3; fd < 4096; fd++) if (fd != listener && close(fd) == 0) closed++;
        closefrom(listener + 1);
        dup2(1, 1000); dup2(1, 1001); dup2(1, 1002); // And takes numbers at will.
        printf("closed %d\n", closed);
        fflush(stdout);
        serve(listener);
    }
    if (!strcmp(mode, "closefrom")) { closefrom(3); for (;;) pause(); }
    if (!strcmp(mode, "cancel")) {
        pthread_t thread;
        pthread_create(&thread, NULL, cancelled, &listener);
        usleep(200000); // It blocks in accept by then, or is cancelled on its way there: both must end it.
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        puts("cancelled");
        fflush(stdout);
        serve(listener);
    }
    if (!strcmp(mode, "signal")) {
        signal_listener = listener;
        signal(SIGUSR1, close_in_handler);
        alarm(120);
        while (accept_one(listener) != 'E') {}
        return 0;
    }
    return 2;
}
