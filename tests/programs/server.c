/* A server in C: takes its sockets as sd_listen_fds(3) says, answers its generation, how many bytes
 * it was sent, and its pid, one request at a time.
 *
 * On TERM it finishes the request that it has, and ends, however many wait: it asks a signalfd(2)
 * between two requests, because ppoll(2) lets no signal through while a connection is there.  Told
 * to be abrupt it does nothing about TERM, which then ends it at once.
 *
 * The socket is non-blocking, because another process may have taken the connection that poll has
 * seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Read the request; return the size of its body, or -1 if it did not come. */
static long receive(int connection, char *head, size_t room) {
    static char body[65536];
    size_t size = 0;
    while (!strstr(head, "\r\n\r\n") && size < room) {
        ssize_t more = read(connection, head + size, room - size);
        if (more <= 0) return -1;
        size += more;
        head[size] = 0;
    }
    char *end = strstr(head, "\r\n\r\n"), *length = strcasestr(head, "\r\nContent-Length:");
    long wanted = length ? atol(length + strlen("\r\nContent-Length:")) : 0;
    long received = end ? size - (end + 4 - head) : 0;
    while (received < wanted) {
        ssize_t more = read(connection, body, sizeof body);
        if (more <= 0) return -1;
        received += more;
    }
    return received;
}

static void answer(int connection) {
    char request[4096] = "", body[96], response[256];
    long received = receive(connection, request, sizeof request - 1);
    if (received < 0) return;
    const char *slow = getenv("SLOW");
    if (strstr(request, " /slow ")) usleep(1000 * (slow ? atoi(slow) : 200));
    int length = snprintf(body, sizeof body, "%s %ld %d\n", getenv("OVERSEER_GENERATION"), received,
                          getpid());
    int total = snprintf(response, sizeof response,
                         "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                         length, body);
    if (write(connection, response, total) != total) perror("write");
}

int main(int argc, char **argv) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || atoi(pid) != getpid() || !count || atoi(count) != 1) {
        fprintf(stderr, "LISTEN_PID or LISTEN_FDS is not meant for this process\n");
        return 2;
    }
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (argc < 2 || strcmp(argv[1], "abrupt")) sigprocmask(SIG_BLOCK, &term, NULL);
    signal(SIGPIPE, SIG_IGN);
    fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
    struct pollfd watched[] = {{3, POLLIN, 0}, {signalfd(-1, &term, SFD_CLOEXEC), POLLIN, 0}};
    while (poll(watched, 2, -1) > 0 && !watched[1].revents) {
        int connection = accept4(3, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        answer(connection);
        close(connection);
    }
    return 0;
}
