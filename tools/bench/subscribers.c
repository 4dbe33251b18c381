/* Many subscribers in one thread: opens connections, subscribes, and notes for each event of each when it came.

   subscribers PORT ws|sse COLLECTION CONNECTIONS WRITES [TOKENS]

   TOKENS is a file of one token per line; connection C uses line C modulo their number, which is its account. The
   records have a number `n`, below WRITES, and the nanosecond `at` (CLOCK_MONOTONIC) at which their writer began.
   Says "ready SECONDS" when all are subscribed, then obeys lines on standard input:

     count        answers with the events so far and the connections that are gone
     churn        each connection unsubscribes and subscribes over and over, now and then as a new connection
     end WRITTEN  prints what came as one line of JSON. WRITTEN has a line for each write: n, when it began, when it was
                  answered (0: never), and the account that may see it (-1: all)

   It reads as cheaply as it can, for the servers share the machine with it: records are not parsed but searched. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { HEAD, OPEN, GONE };
enum phase { BEGINS, HOLDS, ENDS };

struct conn {
    int fd;
    enum state state;
    enum phase phase;
    unsigned turns;
    uint64_t due;     /* when it unsubscribes */
    uint64_t held;    /* since when its subscription holds */
    char *rest;       /* an unfinished frame or line */
    size_t rest_size;
};

/* A subscription held from one moment to the other. */
struct period {
    unsigned conn;
    uint64_t begin, end;
};

/* An event that is missing may have been overtaken by an unsubscription which was sent so soon after the answer to its
   write; this is not ruled out, so it is counted apart. */
#define OVERTAKEN_NS 10000000

struct histogram {
    uint64_t count, negative, buckets[2048];
    uint32_t max;
};

static int port, is_ws, is_churning, epoll;
static const char *collection;
static char **tokens, client[128];
static size_t token_count, conn_count, write_count, period_count, period_room;
static struct conn *conns;
static struct period *periods;
static uint32_t *cells; /* microseconds from `at` to the receipt, and one: of write n and connection c */
static uint64_t events, duplicates, resyncs, refusals, gone, begun;

static void fail(const char *what) {
    fprintf(stderr, "subscribers: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(1);
}

static void *must(void *memory) {
    if (!memory)
        fail("memory");
    return memory;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int dial(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval limit = {.tv_sec = 60};
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void say(int fd, const char *text, size_t size) {
    if (send(fd, text, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("send");
}

/* A masked frame; the mask is zero. */
static void say_frame(int fd, int opcode, const char *format, ...) {
    char frame[512] = {(char)(0x80 | opcode)}, text[400];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments), head = size < 126 ? 6 : 8;
    va_end(arguments);
    frame[1] = (char)(0x80 | (size < 126 ? size : 126));
    if (size >= 126) {
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
    }
    memcpy(frame + head, text, (size_t)size);
    say(fd, frame, (size_t)(head + size));
}

static const char *token_of(size_t c) {
    return token_count ? tokens[c % token_count] : NULL;
}

static void open_conn(size_t c) {
    struct conn *it = &conns[c];
    const char *token = token_of(c);
    char text[4096];
    *it = (struct conn){.fd = dial(), .turns = it->turns, .rest = it->rest};
    int size = snprintf(text, sizeof text,
                        "GET /api/realtime HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s%s%s\r\n", port,
                        is_ws ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                              : "Accept: text/event-stream\r\n",
                        token ? "Authorization: " : "", token ? token : "", token ? "\r\n" : "");
    say(it->fd, text, (size_t)size);
}

/* Sets the topics of a client of server-sent events, by a connection for all of these requests. */
static void set_topics(size_t c) {
    static int fd = -1;
    const char *token = token_of(c);
    char body[512], text[4096];
    if (fd < 0)
        fd = dial();
    int body_size =
        snprintf(body, sizeof body, "{\"clientId\":\"%s\",\"subscriptions\":[\"%s/*\"]}", client, collection);
    int size = snprintf(text, sizeof text,
                        "POST /api/realtime HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                        "Content-Length: %d\r\n%s%s%s\r\n%s",
                        port, body_size, token ? "Authorization: " : "", token ? token : "", token ? "\r\n" : "", body);
    say(fd, text, (size_t)size);
    ssize_t got = recv(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = 0;
    if (!strstr(text, " 204 ") || !strstr(text, "\r\n\r\n"))
        fail("topics");
}

static void subscribe(struct conn *it) {
    say_frame(it->fd, 1, "{\"t\":\"subscribe\",\"ref\":1,\"sub\":\"s\",\"collection\":\"%s\"}", collection);
}

static uint64_t number(const char *text, size_t size, const char *key) {
    const char *found = memmem(text, size, key, strlen(key));
    if (!found)
        fail(key);
    return strtoull(found + strlen(key), NULL, 10);
}

static void take_event(struct conn *it, const char *text, size_t size, uint64_t now) {
    uint64_t n = number(text, size, "\"n\":"), at = number(text, size, "\"at\":\"");
    if (n >= write_count || at > now)
        fail("event");
    uint32_t *cell = &cells[n * conn_count + (size_t)(it - conns)];
    duplicates += *cell != 0;
    *cell = (uint32_t)((now - at) / 1000) + 1;
    events++;
}

static void end_period(struct conn *it, uint64_t now) {
    if (period_count == period_room) {
        period_room = period_room ? 2 * period_room : 1024;
        periods = must(realloc(periods, period_room * sizeof *periods));
    }
    periods[period_count++] = (struct period){(unsigned)(it - conns), it->held, now};
}

static void watch(size_t c) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, conns[c].fd, &event))
        fail("epoll");
}

static void take_ok(struct conn *it, uint64_t now) {
    if (it->phase == BEGINS) {
        it->phase = HOLDS;
        it->held = now;
        it->due = now + (100 + (uint64_t)rand() % 400) * 1000000;
    } else if (++it->turns % 4) {
        it->phase = BEGINS;
        subscribe(it);
    } else {
        close(it->fd);
        open_conn((size_t)(it - conns)); /* subscribes when it is open */
        watch((size_t)(it - conns));
    }
}

static void take_text(struct conn *it, const char *text, size_t size, uint64_t now) {
    if (size > 9 && !memcmp(text, "{\"t\":\"eve", 9))
        take_event(it, text, size, now);
    else if (memmem(text, size, "\"t\":\"ok\"", 8))
        take_ok(it, now);
    else if (memmem(text, size, "\"t\":\"resync\"", 12))
        resyncs++;
    else if (!memmem(text, size, "\"t\":\"welcome\"", 13))
        refusals++;
}

static void take_line(struct conn *it, const char *text, size_t size, uint64_t now) {
    /* Others are names of events and sizes of chunks; no server here cuts a line into two chunks. */
    if (size < 5 || memcmp(text, "data:", 5))
        return;
    const char *found = memmem(text, size, "\"clientId\":\"", 12);
    if (!found) {
        take_event(it, text, size, now);
        return;
    }
    size_t length = strcspn(found + 12, "\"");
    if (length >= sizeof client)
        fail("client");
    memcpy(client, found + 12, length);
    client[length] = 0;
}

/* Takes one frame or line or head; its size, or 0 when it is not whole. */
static size_t take_one(struct conn *it, const char *data, size_t size, uint64_t now) {
    const unsigned char *byte = (const unsigned char *)data;
    if (it->state == HEAD) {
        const char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end)
            return 0;
        if (memcmp(data + 8, is_ws ? " 101 " : " 200 ", 5))
            fail("answer");
        it->state = OPEN;
        if (is_ws)
            subscribe(it);
        return (size_t)(end + 4 - data);
    }
    if (!is_ws) {
        const char *end = memchr(data, '\n', size);
        if (!end)
            return 0;
        take_line(it, data, (size_t)(end - data), now);
        return (size_t)(end + 1 - data);
    }
    size_t head = size < 2 || byte[1] < 126 ? 2 : byte[1] == 126 ? 4 : 10, length = 0;
    if (size < head)
        return 0;
    for (size_t at = 2; at < head; at++)
        length = length << 8 | byte[at];
    length = head == 2 ? byte[1] : length;
    if (size < head + length)
        return 0;
    if (byte[0] == 0x81)
        take_text(it, data + head, length, now);
    else if (byte[0] == 0x89)
        say_frame(it->fd, 10, "%s", "");
    else if (byte[0] != 0x88)
        fail("frame");
    return head + length;
}

/* Reads what is there, once. */
static void take(struct conn *it, int flags) {
    static char buffer[1 << 18];
    int fd = it->fd;
    memcpy(buffer, it->rest, it->rest_size);
    ssize_t got = recv(fd, buffer + it->rest_size, sizeof buffer - 1 - it->rest_size, flags);
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && flags)
        return;
    if (got <= 0) {
        if (flags == 0)
            fail("subscribe");
        it->state = GONE;
        gone++;
        close(fd);
        return;
    }
    uint64_t now = now_ns();
    size_t size = it->rest_size + (size_t)got, at = 0, used;
    buffer[size] = 0;
    while (at < size && (used = take_one(it, buffer + at, size - at, now))) {
        at += used;
        if (it->fd != fd || it->state == HEAD)
            return; /* another connection */
    }
    it->rest_size = size - at;
    if (it->rest_size)
        it->rest = memcpy(must(realloc(it->rest, it->rest_size)), buffer + at, it->rest_size);
}

static void note(struct histogram *it, int64_t us) {
    uint32_t value = us < 0 ? 0 : (uint32_t)us;
    unsigned shift = value < 128 ? 0 : 25u - (unsigned)__builtin_clz(value);
    it->buckets[(shift << 6) + (value >> shift)]++;
    it->count++;
    it->negative += us < 0;
    it->max = value > it->max ? value : it->max;
}

/* Milliseconds below which this share lies, within 1 %. */
static double share(const struct histogram *it, double part) {
    uint64_t left = (uint64_t)((double)it->count * part) + 1;
    for (unsigned at = 0; at < 2048; at++) {
        if (it->buckets[at] >= left)
            return (at < 128 ? at : (double)((64 + (at & 63)) << ((at >> 6) - 1)) * 1.008) / 1000;
        left -= it->buckets[at];
    }
    return it->max / 1000.0;
}

static void print(const char *name, const struct histogram *it) {
    printf(", \"%s\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"negative\": %.4f}", name,
           share(it, .5), share(it, .9), share(it, .99), it->max / 1000.0,
           it->count ? (double)it->negative / (double)it->count : 0);
}

static void report(const char *path) {
    static struct histogram sent, answered, last, post;
    uint64_t *begins = must(calloc(write_count, sizeof *begins)), *answers = must(calloc(write_count, sizeof *answers));
    uint64_t expected = 0, missing = 0, overtaken = 0, unexpected = 0, reordered = 0, end = 0;
    uint64_t now = now_ns();
    for (size_t c = 0; c < conn_count && is_churning; c++)
        if (conns[c].phase == HOLDS && conns[c].state == OPEN)
            end_period(&conns[c], now);
    FILE *file = fopen(path, "r");
    unsigned long long n, began, answer;
    long owner;
    while (file && fscanf(file, "%llu %llu %llu %ld", &n, &began, &answer, &owner) == 4) {
        begins[n] = began;
        answers[n] = answer;
        uint32_t latest = 0, cell, before;
        if (answer)
            note(&post, (int64_t)(answer - began) / 1000);
        for (size_t c = 0; c < conn_count; c++) {
            int is_mine = owner < 0 || (token_count && c % token_count == (size_t)owner);
            cell = cells[n * conn_count + c];
            if (!is_churning) {
                expected += is_mine && answer;
                missing += is_mine && answer && !cell;
                unexpected += !is_mine && cell;
            }
            if (!cell)
                continue;
            note(&sent, cell - 1);
            if (answer)
                note(&answered, (int64_t)cell - 1 - (int64_t)(answer - began) / 1000);
            latest = cell > latest ? cell : latest;
            end = began + cell * 1000ull > end ? began + cell * 1000ull : end;
            /* Of two writes, the second of which began when the first was answered. */
            before = n ? cells[(n - 1) * conn_count + c] : 0;
            if (before && answers[n - 1] && answers[n - 1] < began)
                reordered += begins[n - 1] + before * 1000ull > began + cell * 1000ull + 1000;
        }
        if (latest)
            note(&last, latest - 1);
    }
    for (size_t p = 0; p < period_count; p++)
        for (n = 0; n < write_count; n++)
            if (answers[n] && begins[n] > periods[p].begin && answers[n] < periods[p].end) {
                int is_missing = !cells[n * conn_count + periods[p].conn];
                expected++;
                if (periods[p].end - answers[n] < OVERTAKEN_NS)
                    overtaken += is_missing;
                else
                    missing += is_missing;
            }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"connections\": %zu, \"gone\": %lu, \"events\": %lu, \"expected\": %lu, \"missing\": %lu, \"overtaken\": %lu, "
           "\"unexpected\": %lu, \"duplicates\": %lu, \"reordered\": %lu, \"resyncs\": %lu, \"refusals\": %lu, "
           "\"periods\": %zu, \"last_receipt_ns\": %lu, \"cpu_s\": %.3f",
           conn_count, gone, events, expected, missing, overtaken, unexpected, duplicates, reordered, resyncs, refusals,
           period_count, end,
           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    print("delay_ms", &sent);
    print("after_answer_ms", &answered);
    print("last_ms", &last);
    print("post_ms", &post);
    printf("}\n");
    exit(0);
}

static void obey(void) {
    char line[4096];
    ssize_t size = read(0, line, sizeof line - 1);
    if (size <= 0)
        exit(1);
    line[size] = 0;
    line[strcspn(line, "\n")] = 0;
    if (!strcmp(line, "count"))
        printf("%lu %lu\n", events, gone);
    else if (!strncmp(line, "end ", 4))
        report(line + 4);
    is_churning |= !strcmp(line, "churn");
    fflush(stdout);
}

static void churn(uint64_t now) {
    for (struct conn *it = conns; it < conns + conn_count; it++) {
        if (it->state != OPEN || it->phase != HOLDS || it->due > now)
            continue;
        end_period(it, now_ns());
        it->phase = ENDS;
        say_frame(it->fd, 1, "{\"t\":\"unsubscribe\",\"ref\":2,\"sub\":\"s\"}");
    }
}

static void read_tokens(const char *path) {
    FILE *file = must(fopen(path, "r"));
    size_t room = 0;
    tokens = must(calloc(conn_count, sizeof *tokens));
    while (token_count < conn_count && getline(&tokens[token_count], &room, file) > 0) {
        tokens[token_count][strcspn(tokens[token_count], "\n")] = 0;
        token_count++;
        room = 0;
    }
    fclose(file);
}

int main(int count, char **argument) {
    if (count < 6 || count > 7)
        fail("see the head of subscribers.c for its arguments");
    port = atoi(argument[1]);
    is_ws = !strcmp(argument[2], "ws");
    collection = argument[3];
    conn_count = strtoul(argument[4], NULL, 10);
    write_count = strtoul(argument[5], NULL, 10);
    if (count == 7)
        read_tokens(argument[6]);
    conns = must(calloc(conn_count, sizeof *conns));
    cells = must(calloc(write_count * conn_count, sizeof *cells));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    begun = now_ns();
    for (size_t c = 0; c < conn_count; c++) {
        struct conn *it = &conns[c];
        client[0] = 0;
        open_conn(c);
        while (is_ws ? it->phase == BEGINS : !client[0])
            take(it, 0);
        if (!is_ws)
            set_topics(c);
        watch(c);
    }
    struct epoll_event input = {.events = EPOLLIN, .data.u64 = UINT64_MAX}, ready[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    printf("ready %.3f\n", (double)(now_ns() - begun) / 1e9);
    fflush(stdout);
    for (;;) {
        int found = epoll_wait(epoll, ready, 512, is_churning ? 10 : -1);
        for (int at = 0; at < found; at++) {
            if (ready[at].data.u64 == UINT64_MAX)
                obey();
            else if (conns[ready[at].data.u64].state != GONE)
                take(&conns[ready[at].data.u64], MSG_DONTWAIT);
        }
        if (is_churning)
            churn(now_ns());
    }
}
