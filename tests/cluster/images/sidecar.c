/* What a mesh's proxy does with connections that Istio's rules bring to it, and no more: on 15006 (inbound) and 15001 (outbound) it
 * takes a connection, asks the kernel where it wanted to go, goes there, and copies both ways. Inbound ones go on from 127.0.0.6, by
 * which the rules tell them. It logs each: `inbound FROM to ADDRESS:PORT`. Runs as user 1337, as the rules expect. IPv4 only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter_ipv4.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct side {
    const char *name;
    int port;
    in_addr_t from;
};
struct pipe {
    int from, to;
};
struct taken {
    int client;
    const struct side *side;
};

static void *copy(void *argument)
{
    struct pipe *pipe = argument;
    char buffer[16 << 10];
    ssize_t got;
    while ((got = recv(pipe->from, buffer, sizeof buffer, 0)) > 0)
        for (ssize_t sent, done = 0; done < got; done += sent)
            if ((sent = send(pipe->to, buffer + done, got - done, MSG_NOSIGNAL)) <= 0) {
                shutdown(pipe->from, SHUT_RD);
                return NULL;
            }
    shutdown(pipe->to, SHUT_WR);
    return NULL;
}

static void *relay(void *argument)
{
    struct taken taken = *(struct taken *)argument;
    free(argument);
    struct sockaddr_in wanted = {0}, peer = {0}, own = {.sin_family = AF_INET, .sin_addr.s_addr = taken.side->from};
    socklen_t length = sizeof wanted;
    char from[64], to[64];
    int server = socket(AF_INET, SOCK_STREAM, 0);
    getsockopt(taken.client, SOL_IP, SO_ORIGINAL_DST, &wanted, &length);
    length = sizeof peer;
    getpeername(taken.client, (void *)&peer, &length);
    inet_ntop(AF_INET, &peer.sin_addr, from, sizeof from);
    inet_ntop(AF_INET, &wanted.sin_addr, to, sizeof to);
    printf("%s %s to %s:%d\n", taken.side->name, from, to, ntohs(wanted.sin_port));
    if (bind(server, (void *)&own, sizeof own) == 0 && connect(server, (void *)&wanted, sizeof wanted) == 0) {
        struct pipe up = {taken.client, server}, down = {server, taken.client};
        pthread_t thread;
        if (pthread_create(&thread, NULL, copy, &up) == 0) {
            copy(&down);
            pthread_join(thread, NULL);
        }
    }
    close(server);
    close(taken.client);
    return NULL;
}

static void *listen_on(void *argument)
{
    const struct side *side = argument;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(side->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&any, sizeof any) < 0 || listen(fd, 512) < 0) {
        perror("cannot listen");
        exit(4);
    }
    printf("listening %d\n", side->port);
    for (;;) {
        struct taken *taken = malloc(sizeof *taken);
        pthread_t thread;
        taken->side = side;
        if ((taken->client = accept(fd, NULL, NULL)) >= 0 && pthread_create(&thread, NULL, relay, taken) == 0)
            pthread_detach(thread);
    }
}

int main(void)
{
    static struct side sides[] = {{"outbound", 15001, 0}, {"inbound", 15006, 0}};
    sides[1].from = inet_addr("127.0.0.6");
    setlinebuf(stdout);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, listen_on, &sides[i]);
    }
    for (;;)
        pause();
}
