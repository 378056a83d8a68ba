/*
 * The yardstick of the load tool: a broadcast as a plain loop of one send() of a ready-made frame per receiver, and
 * an acknowledged event as one recv() and one send(). What a server needs beyond this is its own doing.
 *
 * This is a benchmark's yardstick and not a server. One thread, epoll, no libraries; it knows no users, no limits and
 * no back-pressure, and only as much of WebSocket, Engine.IO 4 and Socket.IO 5 as the load tool speaks: the text
 * parser over a WebSocket, in the namespace "/", with the events `join` and `publish`; any other event is
 * acknowledged. What it does not understand ends the connection. It listens on 127.0.0.1.
 *
 * floor --port PORT [--mode send|queue] [--redis PORT]
 *
 *   send    one send() per receiver and publication, made at once
 *   queue   what one turn of the event loop brought is collected for each receiver and written in one send()
 *
 * With --redis a publication goes through Redis on 127.0.0.1, to all processes that have members of the room, and is
 * acknowledged when Redis has answered: one PUBLISH, of the frame that members get, and what any server must do for it.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 1 << 20,
    EVENTS = 1024,
    MESSAGE_MAX = 1000000,
    /* The largest message, its head, and one read behind it. */
    READ = 64 * 1024,
    SCRATCH = MESSAGE_MAX + 16 + READ,
    REQUEST_MAX = 16 * 1024,
    PING_MS = 25000,
    /* Every connection is pinged in one of so many turns. */
    PING_TURNS = 250,
    ROOM_SLOTS = 1 << 16,
    UNANSWERED = 1 << 12,
    /* In front of what is published: a PUBLISH with the name of its room, and the head of a frame. */
    HEAD = 512,
};

/* Bytes that wait: the beginning of a frame, or what a socket did not take. */
struct buffer {
    size_t start, end, size;
    struct buffer *next;
    char bytes[];
};

/* Found by descriptor. An idle connection has no buffers. */
struct connection {
    struct buffer *in, *out;
    uint32_t memberships;
    bool is_open, is_upgraded, is_joined, is_heard, is_dirty, awaits_room;
};

struct room {
    char *name;
    size_t name_bytes;
    int *members;
    uint32_t count, size;
};

/* One room that a connection is in, and the next one. Number 0 is none. */
struct membership {
    uint32_t room, next;
};

struct text {
    const char *at;
    size_t bytes;
};

/* A publication that Redis has not answered yet. */
struct unanswered {
    int fd;
    uint32_t ack_bytes;
    char ack[20], id[21];
};

static int poller;
static bool is_queueing;
/* Two connections, since a subscriber of RESP2 can not publish; -1 without Redis. */
static int publisher = -1, subscriber = -1;
static struct buffer *heard;
static struct unanswered unanswered[UNANSWERED];
static uint32_t unanswered_first, unanswered_end;
static struct connection *connections;
static int descriptors_end;
static struct room *rooms;
static uint32_t room_count;
static uint32_t room_slots[ROOM_SLOTS];
static struct membership *memberships;
static uint32_t membership_size, membership_count = 1, membership_free;
static int *dirty;
static uint32_t dirty_count;
static struct buffer *buffers_free;
static char scratch[SCRATCH];
static char frame[HEAD + MESSAGE_MAX + 1024];
static char node[9];
static uint64_t published, sids;
static volatile sig_atomic_t is_stopping;

static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char URL64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void *checked(void *memory) {
    if (!memory) {
        fputs("floor: out of memory\n", stderr);
        exit(71);
    }
    return memory;
}

static void fail(const char *what) {
    perror(what);
    exit(71);
}

/* The handshake's hash. */

static uint32_t rotated(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static void sha1_block(uint32_t state[5], const uint8_t *block) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5a827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
        else f = b ^ c ^ d, k = 0xca62c1d6;
        uint32_t t = rotated(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotated(b, 30), b = a, a = t;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* Sec-WebSocket-Accept of a key: 28 characters. */
static void accept_of(const char key[24], char out[28]) {
    /* The key and the protocol's constant are 60 bytes; with padding and length they are two blocks. */
    uint8_t block[128] = {0}, hash[21] = {0};
    memcpy(block, key, 24);
    memcpy(block + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    block[60] = 0x80;
    block[126] = 60 * 8 >> 8;
    block[127] = 60 * 8 & 0xff;
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    sha1_block(state, block);
    sha1_block(state, block + 64);
    for (int i = 0; i < 20; i++) hash[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)hash[3 * i] << 16 | (uint32_t)hash[3 * i + 1] << 8 | hash[3 * i + 2];
        for (int j = 0; j < 4; j++) out[4 * i + j] = BASE64[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
}

/* Bytes that wait. */

static struct buffer *buffer_new(size_t size) {
    struct buffer *buffer = checked(malloc(sizeof *buffer + size));
    buffer->start = buffer->end = 0;
    buffer->size = size;
    buffer->next = NULL;
    return buffer;
}

static struct buffer *buffer_put(struct buffer *buffer, const char *bytes, size_t count) {
    if (!buffer) buffer = buffer_new(count);
    if (buffer->end + count > buffer->size) {
        size_t size = 2 * (buffer->end + count);
        buffer = checked(realloc(buffer, sizeof *buffer + size));
        buffer->size = size;
    }
    memcpy(buffer->bytes + buffer->end, bytes, count);
    buffer->end += count;
    return buffer;
}

/* Sending. An error is left to the next read, which finds the socket shut down. */

static void await(int fd, bool room) {
    struct epoll_event event = {.events = EPOLLIN | (room ? EPOLLOUT : 0), .data.fd = fd};
    connections[fd].awaits_room = room;
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

/* How much of it the socket took. */
static size_t taken(int fd, const char *bytes, size_t count) {
    ssize_t sent = send(fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return (size_t)sent;
    if (errno != EAGAIN && errno != EINTR) {
        shutdown(fd, SHUT_RDWR);
        return count;
    }
    return 0;
}

static void put(int fd, const char *bytes, size_t count) {
    struct connection *connection = &connections[fd];
    if (is_queueing) {
        if (!connection->out && buffers_free) {
            connection->out = buffers_free;
            buffers_free = buffers_free->next;
            connection->out->start = connection->out->end = 0;
        }
        connection->out = buffer_put(connection->out, bytes, count);
        if (!connection->is_dirty && !connection->awaits_room) {
            connection->is_dirty = true;
            dirty[dirty_count++] = fd;
        }
        return;
    }
    if (!connection->out) {
        size_t sent = taken(fd, bytes, count);
        if (sent == count) return;
        bytes += sent;
        count -= sent;
        await(fd, true);
    }
    connection->out = buffer_put(connection->out, bytes, count);
}

/* Writes what waits for a socket. */
static void flush(int fd) {
    struct connection *connection = &connections[fd];
    struct buffer *out = connection->out;
    connection->is_dirty = false;
    if (!out) return;
    out->start += taken(fd, out->bytes + out->start, out->end - out->start);
    if (out->start < out->end) {
        if (!connection->awaits_room) await(fd, true);
        return;
    }
    connection->out = NULL;
    if (connection->awaits_room) await(fd, false);
    if (is_queueing && out->size <= READ) {
        out->next = buffers_free;
        buffers_free = out;
    } else {
        free(out);
    }
}

/* The head of an unmasked frame in front of `payload`, which has ten bytes of room before it. */
static char *headed(char *payload, size_t count, uint8_t opcode, size_t *total) {
    char *start;
    if (count < 126) {
        start = payload - 2;
        start[1] = (char)count;
    } else if (count < 65536) {
        start = payload - 4;
        start[1] = 126;
        start[2] = (char)(count >> 8);
        start[3] = (char)count;
    } else {
        start = payload - 10;
        start[1] = 127;
        for (int i = 0; i < 8; i++) start[2 + i] = (char)((uint64_t)count >> (56 - 8 * i));
    }
    start[0] = (char)(0x80 | opcode);
    *total = count + (size_t)(payload - start);
    return start;
}

static void put_frame(int fd, uint8_t opcode, const char *bytes, size_t count) {
    char message[256 + 10];
    if (count > sizeof message - 10) return;
    memcpy(message + 10, bytes, count);
    size_t total;
    char *start = headed(message + 10, count, opcode, &total);
    put(fd, start, total);
}

/* Redis takes what it is sent at these loads; a write that it does not take whole is the end. */
static void command(int fd, const char *bytes, size_t count) {
    if (taken(fd, bytes, count) != count) fail("redis");
}

/* Rooms. */

static uint32_t room_named(struct text name, bool make) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < name.bytes; i++) hash = (hash ^ (uint8_t)name.at[i]) * 16777619u;
    uint32_t slot = hash % ROOM_SLOTS;
    for (; room_slots[slot]; slot = (slot + 1) % ROOM_SLOTS) {
        struct room *room = &rooms[room_slots[slot]];
        if (room->name_bytes == name.bytes && !memcmp(room->name, name.at, name.bytes)) return room_slots[slot];
    }
    if (!make || room_count + 2 >= ROOM_SLOTS) return 0;
    if (subscriber >= 0) {
        char message[512];
        int count = snprintf(message, sizeof message, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%.*s\r\n", name.bytes,
                             (int)name.bytes, name.at);
        if (count >= (int)sizeof message) return 0;
        command(subscriber, message, (size_t)count);
    }
    struct room *room = &rooms[++room_count];
    room->name = checked(malloc(name.bytes + 1));
    memcpy(room->name, name.at, name.bytes);
    room->name_bytes = name.bytes;
    return room_slots[slot] = room_count;
}

static bool join(int fd, struct text name) {
    uint32_t number = room_named(name, true);
    if (!number) return false;
    for (uint32_t at = connections[fd].memberships; at; at = memberships[at].next)
        if (memberships[at].room == number) return true;
    struct room *room = &rooms[number];
    if (room->count == room->size) {
        room->size = room->size ? 2 * room->size : 8;
        room->members = checked(realloc(room->members, room->size * sizeof *room->members));
    }
    room->members[room->count++] = fd;
    uint32_t at = membership_free;
    if (at) {
        membership_free = memberships[at].next;
    } else {
        if (membership_count >= membership_size) {
            membership_size = membership_size ? 2 * membership_size : 1024;
            memberships = checked(realloc(memberships, membership_size * sizeof *memberships));
        }
        at = membership_count++;
    }
    memberships[at] = (struct membership){number, connections[fd].memberships};
    connections[fd].memberships = at;
    return true;
}

static void leave_all(int fd) {
    uint32_t at = connections[fd].memberships;
    connections[fd].memberships = 0;
    while (at) {
        struct room *room = &rooms[memberships[at].room];
        for (uint32_t i = 0; i < room->count; i++) {
            if (room->members[i] == fd) {
                room->members[i] = room->members[--room->count];
                break;
            }
        }
        uint32_t next = memberships[at].next;
        memberships[at].next = membership_free;
        membership_free = at;
        at = next;
    }
}

/* As much JSON as has to be looked at. Each returns where it stopped, or NULL. */

static const char *blank(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

static const char *string(const char *at, const char *end) {
    if (at >= end || *at != '"') return NULL;
    for (at++; at < end; at++) {
        if (*at == '"') return at + 1;
        if (*at == '\\') at++;
    }
    return NULL;
}

static const char *value(const char *at, const char *end) {
    if (at >= end) return NULL;
    if (*at == '"') return string(at, end);
    if (*at != '{' && *at != '[') {
        while (at < end && !strchr(",]} \t\n\r", *at)) at++;
        return at;
    }
    for (int depth = 0; at < end;) {
        if (*at == '"') {
            at = string(at, end);
            if (!at) return NULL;
            continue;
        }
        if (*at == '{' || *at == '[') depth++;
        if ((*at == '}' || *at == ']') && --depth == 0) return at + 1;
        at++;
    }
    return NULL;
}

/* The member of an object, as it is written; no bytes when there is none. */
static struct text member(struct text object, const char *key) {
    struct text none = {NULL, 0};
    const char *at = object.at, *end = at + object.bytes;
    size_t key_bytes = strlen(key);
    if (at >= end || *at != '{') return none;
    for (at++;;) {
        const char *name = blank(at, end);
        at = string(name, end);
        if (!at) return none;
        bool is_it = (size_t)(at - name) == key_bytes + 2 && !memcmp(name + 1, key, key_bytes);
        at = blank(at, end);
        if (at >= end || *at != ':') return none;
        const char *start = blank(at + 1, end);
        at = value(start, end);
        if (!at) return none;
        if (is_it) return (struct text){start, (size_t)(at - start)};
        at = blank(at, end);
        if (at >= end || *at != ',') return none;
        at++;
    }
}

static bool is_string(struct text json) { return json.bytes >= 2 && *json.at == '"'; }

/* What it is for. */

static char *append(char *to, const void *bytes, size_t count) {
    memcpy(to, bytes, count);
    return to + count;
}

static char *append_text(char *to, const char *text) { return append(to, text, strlen(text)); }

static void url64(uint64_t number, char *out, int digits) {
    for (int i = digits - 1; i >= 0; i--, number >>= 6) out[i] = URL64[number & 63];
}

/* The identity of the next publication: 20 characters. */
static void identify(char id[21]) {
    memcpy(id, node, 8);
    url64(published++, id + 8, 12);
    id[20] = 0;
}

/* The loop that everything is compared with. `but` is left out. */
static void deliver(struct text name, int but, const char *bytes, size_t count) {
    uint32_t number = room_named(name, false);
    if (!number) return;
    const struct room *members = &rooms[number];
    for (uint32_t i = 0; i < members->count; i++)
        if (members->members[i] != but) put(members->members[i], bytes, count);
}

static void publish(int fd, struct text room, struct text event, struct text data, const char *id) {
    if (room.bytes + event.bytes + data.bytes > MESSAGE_MAX) return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char *to = append_text(frame + HEAD, "42[");
    to = append(to, event.at, event.bytes);
    *to++ = ',';
    to = append(to, data.at, data.bytes);
    to += sprintf(to, ",{\"id\":\"%s\",\"room\":", id);
    to = append(to, room.at, room.bytes);
    to += sprintf(to, ",\"from\":null,\"node\":\"%s\",\"ts\":%lld}]", node,
                  (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    size_t total;
    char *start = headed(frame + HEAD, (size_t)(to - frame - HEAD), 1, &total);
    struct text name = {room.at + 1, room.bytes - 2};
    if (publisher < 0) {
        deliver(name, fd, start, total);
        return;
    }
    /* The command stands right in front of its argument. */
    char head[HEAD];
    int head_bytes = snprintf(head, sizeof head, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%.*s\r\n$%zu\r\n", name.bytes,
                              (int)name.bytes, name.at, total);
    if (head_bytes >= HEAD - 10) fail("a long name of a room");
    memcpy(start - head_bytes, head, (size_t)head_bytes);
    memcpy(start + total, "\r\n", 2);
    command(publisher, start - head_bytes, (size_t)head_bytes + total + 2);
}

static void acknowledge(int fd, struct text ack, const char *id) {
    char message[128], *to = append_text(message, "43");
    to = append(to, ack.at, ack.bytes);
    to = append_text(to, "[{\"ok\":true");
    if (*id) to += sprintf(to, ",\"id\":\"%s\"", id);
    to = append_text(to, "}]");
    put_frame(fd, 1, message, (size_t)(to - message));
}

/* `42`, behind it an acknowledgement's number and the arguments. */
static bool on_event(int fd, const char *at, const char *end) {
    const char *digits = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    struct text ack = {digits, (size_t)(at - digits)};
    if (at >= end || *at != '[' || ack.bytes > 20) return false;
    const char *name = blank(at + 1, end);
    at = string(name, end);
    if (!at) return false;
    struct text event = {name, (size_t)(at - name)}, argument = {end, 0};
    at = blank(at, end);
    if (at < end && *at == ',') {
        argument.at = blank(at + 1, end);
        at = value(argument.at, end);
        if (!at) return false;
        argument.bytes = (size_t)(at - argument.at);
    }
    char id[21] = "";
    if (event.bytes == 6 && !memcmp(event.at, "\"join\"", 6)) {
        struct text room = is_string(argument) ? argument : member(argument, "room");
        if (!is_string(room) || !join(fd, (struct text){room.at + 1, room.bytes - 2})) return false;
    } else if (event.bytes == 9 && !memcmp(event.at, "\"publish\"", 9)) {
        struct text room = member(argument, "room"), data = member(argument, "data"), of = member(argument, "event");
        if (!is_string(room)) return false;
        if (!is_string(of)) of = (struct text){"\"message\"", 9};
        if (!data.bytes) data = (struct text){"null", 4};
        identify(id);
        publish(fd, room, of, data, id);
    }
    if (*id && publisher >= 0) {
        if (unanswered_end - unanswered_first == UNANSWERED) return false;
        struct unanswered *last = &unanswered[unanswered_end++ % UNANSWERED];
        last->fd = fd;
        last->ack_bytes = (uint32_t)ack.bytes;
        memcpy(last->ack, ack.at, ack.bytes);
        memcpy(last->id, id, sizeof id);
    } else if (ack.bytes) {
        acknowledge(fd, ack, id);
    }
    return true;
}

/* What Redis answers a PUBLISH: a number, in a line of its own. */
static void on_published(void) {
    ssize_t got = recv(publisher, scratch, READ, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("redis");
    for (ssize_t i = 0; i < got; i++) {
        if (scratch[i] == '-') fail("redis has an error");
        if (scratch[i] != '\n' || unanswered_first == unanswered_end) continue;
        const struct unanswered *next = &unanswered[unanswered_first++ % UNANSWERED];
        if (next->ack_bytes && connections[next->fd].is_joined)
            acknowledge(next->fd, (struct text){next->ack, next->ack_bytes}, next->id);
    }
}

/* One of three arguments, `$n\r\n` and n bytes; of a SUBSCRIBE's answer the last is `:n`. NULL when it is not whole. */
static const char *argument_of(const char *at, const char *end, struct text *out) {
    const char *line = memchr(at, '\n', (size_t)(end - at));
    if (!line) return NULL;
    *out = (struct text){line + 1, 0};
    if (*at == ':') return line + 1;
    out->bytes = strtoul(at + 1, NULL, 10);
    return (size_t)(end - out->at) < out->bytes + 2 ? NULL : out->at + out->bytes + 2;
}

static void on_subscribed(void) {
    size_t held = heard ? heard->end : 0;
    if (held) memcpy(scratch, heard->bytes, held);
    ssize_t got = recv(subscriber, scratch + held, READ, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("redis");
    const char *at = scratch, *end = scratch + held + got;
    while (end - at > 4) {
        struct text kind, name, payload;
        if (memcmp(at, "*3\r\n", 4)) fail("redis says what it should not");
        const char *next = argument_of(at + 4, end, &kind);
        if (next) next = argument_of(next, end, &name);
        if (next) next = argument_of(next, end, &payload);
        if (!next) break;
        if (kind.bytes == 7) deliver(name, -1, payload.at, payload.bytes);
        at = next;
    }
    if (heard) heard->end = 0;
    if (at < end) heard = buffer_put(heard, at, (size_t)(end - at));
}

static int redis_at(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("redis");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll");
    return fd;
}

static void sid(char out[21]) {
    memcpy(out, node, 8);
    url64(++sids * 0x9e3779b97f4a7c15u, out + 8, 12);
    out[20] = 0;
}

/* One Engine.IO packet. False ends the connection. */
static bool on_text(int fd, const char *at, size_t count) {
    struct connection *connection = &connections[fd];
    const char *end = at + count;
    if (count == 1 && *at == '3') return true;
    if (count >= 2 && at[0] == '4' && at[1] == '0' && !connection->is_joined) {
        if (count > 2 && at[2] == '/') return false;
        char message[64], id[21];
        sid(id);
        connection->is_joined = true;
        put_frame(fd, 1, message, (size_t)sprintf(message, "40{\"sid\":\"%s\"}", id));
        return true;
    }
    if (count >= 2 && at[0] == '4' && at[1] == '2' && connection->is_joined) return on_event(fd, at + 2, end);
    return false;
}

static bool on_request(int fd, const char *at, size_t count) {
    static const char NAME[] = "\r\nsec-websocket-key:";
    const char *end = at + count;
    for (; at + sizeof NAME - 1 + 24 < end; at++) {
        if (*at != '\r' || strncasecmp(at, NAME, sizeof NAME - 1)) continue;
        at += sizeof NAME - 1;
        while (at < end && *at == ' ') at++;
        if (end - at < 24) return false;
        char answer[512], accept[29] = "", id[21];
        accept_of(at, accept);
        put(fd, answer, (size_t)sprintf(answer,
                                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                                        accept));
        sid(id);
        put_frame(fd, 1, answer, (size_t)sprintf(answer,
                                                 "0{\"sid\":\"%s\",\"upgrades\":[],\"pingInterval\":%d,"
                                                 "\"pingTimeout\":20000,\"maxPayload\":%d}",
                                                 id, PING_MS, MESSAGE_MAX));
        return connections[fd].is_upgraded = true;
    }
    static const char NO[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    put(fd, NO, sizeof NO - 1);
    return false;
}

/* What is whole of a connection's bytes is done, and taken off. Returns how many that are, or -1 to end it. */
static ssize_t on_bytes(int fd, char *bytes, size_t count) {
    size_t done = 0;
    if (!connections[fd].is_upgraded) {
        char *end = memmem(bytes, count, "\r\n\r\n", 4);
        if (!end) return count > REQUEST_MAX ? -1 : 0;
        done = (size_t)(end - bytes) + 4;
        if (!on_request(fd, bytes, done)) return -1;
    }
    while (count - done >= 2) {
        uint8_t *head = (uint8_t *)bytes + done;
        uint8_t opcode = head[0] & 15;
        uint64_t length = head[1] & 127;
        size_t head_bytes = 2 + 4;
        /* A message in several frames, extensions, or no mask. */
        if (!(head[0] & 0x80) || head[0] & 0x70 || !(head[1] & 0x80)) return -1;
        if (length == 126) {
            head_bytes += 2;
            if (count - done < head_bytes) break;
            length = (uint64_t)head[2] << 8 | head[3];
        } else if (length == 127) {
            head_bytes += 8;
            if (count - done < head_bytes) break;
            length = 0;
            for (int i = 0; i < 8; i++) length = length << 8 | head[2 + i];
        }
        if (length > MESSAGE_MAX) return -1;
        if (count - done < head_bytes + length) break;
        uint8_t *payload = head + head_bytes;
        uint32_t mask;
        memcpy(&mask, payload - 4, 4);
        uint64_t wide = (uint64_t)mask << 32 | mask, eight;
        size_t at = 0;
        for (; at + 8 <= length; at += 8) {
            memcpy(&eight, payload + at, 8);
            eight ^= wide;
            memcpy(payload + at, &eight, 8);
        }
        for (; at < length; at++) payload[at] ^= payload[(ssize_t)(at & 3) - 4];
        done += head_bytes + length;
        if (opcode == 1) {
            if (!on_text(fd, (char *)payload, length)) return -1;
        } else if (opcode == 9) {
            put_frame(fd, 10, (char *)payload, length);
        } else if (opcode != 10) {
            if (opcode == 8) put_frame(fd, 8, (char *)payload, length);
            return -1;
        }
    }
    return (ssize_t)done;
}

static void end_connection(int fd) {
    struct connection *connection = &connections[fd];
    flush(fd);
    leave_all(fd);
    free(connection->in);
    free(connection->out);
    for (uint32_t i = 0; i < dirty_count; i++)
        if (dirty[i] == fd) dirty[i] = dirty[--dirty_count];
    memset(connection, 0, sizeof *connection);
    close(fd);
}

static void on_readable(int fd) {
    struct connection *connection = &connections[fd];
    struct buffer *in = connection->in;
    size_t held = 0;
    if (in) memcpy(scratch, in->bytes, held = in->end);
    ssize_t got = recv(fd, scratch + held, READ, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        end_connection(fd);
        return;
    }
    connection->is_heard = true;
    size_t count = held + (size_t)got;
    ssize_t done = on_bytes(fd, scratch, count);
    if (done < 0) {
        end_connection(fd);
        return;
    }
    if (in && !done) {
        connection->in = buffer_put(in, scratch + held, (size_t)got);
        return;
    }
    free(in);
    connection->in = NULL;
    if ((size_t)done < count) connection->in = buffer_put(NULL, scratch + done, count - (size_t)done);
}

static void on_connecting(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= CONNECTIONS_MAX) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fd >= descriptors_end) descriptors_end = fd + 1;
        connections[fd] = (struct connection){.is_open = true, .is_heard = true};
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) end_connection(fd);
    }
}

/* Pings the connections whose descriptor it is the turn of. Who has said nothing since the last time is gone. */
static void ping(int turn) {
    for (int fd = turn; fd < descriptors_end; fd += PING_TURNS) {
        if (!connections[fd].is_open) continue;
        if (!connections[fd].is_heard) {
            end_connection(fd);
            continue;
        }
        connections[fd].is_heard = false;
        if (connections[fd].is_joined) put_frame(fd, 1, "2", 1);
    }
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void on_signal(int number) {
    (void)number;
    is_stopping = 1;
}

/* Zeroed memory that takes room only where it is written. */
static void *reserved(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return checked(memory == MAP_FAILED ? NULL : memory);
}

static int usage(void) {
    fputs("usage: floor --port PORT [--mode send|queue] [--redis PORT]\n", stderr);
    return 64;
}

int main(int argc, char **argv) {
    long port = 0, redis = 0;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) return usage();
        if (!strcmp(argv[i], "--port")) port = strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--redis")) redis = strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--mode") && !strcmp(argv[i + 1], "queue")) is_queueing = true;
        else if (strcmp(argv[i], "--mode") || strcmp(argv[i + 1], "send")) return usage();
    }
    if (port < 1 || port > 65535 || redis < 0 || redis > 65535) return usage();

    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sigaction stop = {.sa_handler = on_signal};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    connections = reserved(CONNECTIONS_MAX * sizeof *connections);
    dirty = reserved(CONNECTIONS_MAX * sizeof *dirty);
    rooms = reserved(ROOM_SLOTS * sizeof *rooms);
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) fail("getrandom");
    url64(random, node, 8);
    sids = random >> 32;

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event)) fail("epoll");
    if (redis) {
        publisher = redis_at((uint16_t)redis);
        subscriber = redis_at((uint16_t)redis);
    }
    printf("ready on %ld\n", port);
    fflush(stdout);

    static struct epoll_event events[EVENTS];
    int64_t turn_at = now_ms() + PING_MS / PING_TURNS;
    for (int turn = 0; !is_stopping;) {
        int64_t left = turn_at - now_ms();
        int count = epoll_wait(poller, events, EVENTS, left > 0 ? (int)left : 0);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                on_connecting(listener);
                continue;
            }
            if (fd == publisher || fd == subscriber) {
                if (fd == publisher) on_published();
                else on_subscribed();
                continue;
            }
            if (events[i].events & EPOLLOUT && connections[fd].is_open) flush(fd);
            if (events[i].events & ~(uint32_t)EPOLLOUT && connections[fd].is_open) on_readable(fd);
        }
        if (now_ms() >= turn_at) {
            ping(turn);
            turn = (turn + 1) % PING_TURNS;
            turn_at += PING_MS / PING_TURNS;
        }
        for (uint32_t i = 0; i < dirty_count; i++) flush(dirty[i]);
        dirty_count = 0;
    }
    return 0;
}
