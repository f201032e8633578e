/* The web server of test pods: HTTP/1.1 with kept connections, a thread a connection. Arguments: NAME PORT...
 * Each answer says who gave it: `pod NAME METHOD PATH`. /bytes/N answers N bytes, /slow/MS after so many milliseconds, /exit ends
 * the program. Requests are logged, but for those below /others/, which are load. As a server that is to be rolled
 * over without loss does, it ends by SIGTERM only when every client has been told so by `Connection: close`, or after 5 s. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 64 << 10 };

static const char *name;
static atomic_int connections;
static atomic_int ending;

static int send_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        bytes += sent;
        length -= sent;
    }
    return 0;
}

/* A header's value, up to 255 bytes of it. */
static void field(const char *head, const char *wanted, char *value)
{
    size_t length = strlen(wanted);
    value[0] = 0;
    for (const char *line = strstr(head, "\r\n"); line && line[2] && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, wanted, length) == 0 && line[2 + length] == ':') {
            sscanf(line + 3 + length, " %255[^\r\n]", value);
            return;
        }
}

static int answer(int fd, const char *method, const char *path)
{
    static const char zeros[ROOM];
    unsigned long long size = 0, wait = 0;
    char head[256], text[1400];
    int last = atomic_load(&ending), many = sscanf(path, "/bytes/%llu", &size) == 1;
    if (sscanf(path, "/slow/%llu", &wait) == 1)
        usleep(wait * 1000);
    if (!many)
        size = snprintf(text, sizeof text, "pod %s %s %s\n", name, method, path);
    int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\nX-Pod: %s\r\n%s\r\n", size, name,
                          last ? "Connection: close\r\n" : "");
    if (send_all(fd, head, length) < 0)
        return -1;
    if (!many && send_all(fd, text, size) < 0)
        return -1;
    for (size_t part; many && size > 0; size -= part) {
        part = size < sizeof zeros ? size : sizeof zeros;
        if (send_all(fd, zeros, part) < 0)
            return -1;
    }
    if (strcmp(path, "/exit") == 0)
        _exit(7);
    return last ? -1 : 0;
}

static void *serve(void *argument)
{
    int fd = (int)(long)argument, one = 1;
    struct sockaddr_in6 peer = {0};
    socklen_t length = sizeof peer;
    char from[INET6_ADDRSTRLEN] = "";
    getpeername(fd, (void *)&peer, &length);
    inet_ntop(AF_INET6, &peer.sin6_addr, from, sizeof from);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);

    char *buffer = malloc(ROOM + 1);
    size_t held = 0;
    for (;;) {
        char *end;
        buffer[held] = 0;
        while (!(end = strstr(buffer, "\r\n\r\n"))) {
            ssize_t got = held < ROOM ? recv(fd, buffer + held, ROOM - held, 0) : 0;
            if (got <= 0)
                goto done;
            held += got;
            buffer[held] = 0;
        }
        end[2] = 0;
        char method[16] = "", path[1024] = "", value[256], agent[256], user[256];
        sscanf(buffer, "%15s %1023s", method, path);
        field(buffer, "user-agent", agent);
        field(buffer, "x-user", user);
        field(buffer, "content-length", value);
        unsigned long long left = strtoull(value, NULL, 10);
        size_t used = end + 4 - buffer, here = held - used < left ? held - used : left;
        left -= here;
        used += here;
        memmove(buffer, buffer + used, held - used);
        held -= used;
        for (; left > 0;) {
            char body[4096];
            ssize_t got = recv(fd, body, left < sizeof body ? left : sizeof body, 0);
            if (got <= 0)
                goto done;
            left -= got;
        }
        if (strncmp(path, "/others/", 8) != 0)
            printf("request %s %s from=%s user=%s agent=%s\n", method, path, from, user, agent);
        if (answer(fd, method, path) < 0)
            goto done;
    }
done:
    free(buffer);
    /* Not closed with unread bytes in it, which would reset it under the answer. */
    shutdown(fd, SHUT_WR);
    for (char rest[4096]; recv(fd, rest, sizeof rest, 0) > 0;)
        ;
    close(fd);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

static void *listen_on(void *argument)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argument))};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1, zero = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, (void *)&any, sizeof any) < 0 || listen(fd, 512) < 0) {
        perror("cannot listen");
        exit(4);
    }
    printf("listening %s\n", (char *)argument);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        pthread_t thread;
        if (client < 0)
            continue;
        atomic_fetch_add(&connections, 1);
        if (pthread_create(&thread, NULL, serve, (void *)(long)client) == 0)
            pthread_detach(thread);
    }
}

int main(int count, char **arguments)
{
    sigset_t signals;
    int number;
    if (count < 3)
        return 2;
    name = arguments[1];
    setlinebuf(stdout);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    for (int i = 2; i < count; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, listen_on, arguments[i]);
    }
    sigwait(&signals, &number);
    atomic_store(&ending, 1);
    printf("signal %d\n", number);
    for (int i = 0; i < 500 && atomic_load(&connections) > 0; i++)
        usleep(10000);
    return 0;
}
