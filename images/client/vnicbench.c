/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vnicbench: the measuring client in the guest.  Static, no allocation in any measured loop, one line out.
 *
 *   vnicbench conn ADDR PORT [-n INFLIGHT] [-c COUNT] [-t SECONDS]
 *       connect, read one byte, read end of file, close; INFLIGHT of them at a time
 *   vnicbench rr   ADDR PORT [-c COUNT] [-t SECONDS] [-s SIZE]
 *       write SIZE bytes (1), read them back, again
 *   vnicbench up   ADDR PORT [-b BYTES] [-t SECONDS] [-s SIZE]
 *       write BYTES in pieces of SIZE (65536), shut down, wait for the peer's end of file
 *   vnicbench down ADDR PORT [-b BYTES] [-t SECONDS] [-s SIZE] [-q]
 *       write BYTES as a big-endian 64-bit number (not with -q), read that many bytes, then, unless -q,
 *       end of file
 *   vnicbench hold ADDR PORT [-n CONNECTIONS] [-t SECONDS]
 *       open all, then send a line of its own on each, then check that it comes back on the same one
 *
 * A run ends at COUNT or BYTES, or at SECONDS (10; with -c 60), whichever comes first.  The end of the time is the
 * ordinary end of conn and rr without -c; otherwise something hung or was too slow, and it counts as a failure.
 *
 * Output: key=value pairs on one line, the same keys in the same order for each mode.  Exit code 0 when
 * nothing failed, 1 when something did (the line says what), 2 for wrong usage.
 *
 * Time: CLOCK_MONOTONIC.  The end of the time is a SIGALRM without SA_RESTART, so that every blocking call
 * returns; it repeats each 50 ms in case the first came just before the call.  One connection at a time uses
 * blocking calls, since an epoll round trip per connection would be measured along with it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_INFLIGHT = 4096, MAX_SAMPLES = 1 << 20, MAX_PIECE = 1 << 20, LINE_SIZE = 64, EVENTS = 64 };

struct options {
	const char *mode;
	struct sockaddr_storage address;
	socklen_t address_size;
	uint64_t count;
	uint64_t bytes;
	double seconds;
	size_t size;
	int inflight;
	int quiet;
};

struct tally {
	uint64_t ok;
	uint64_t failed;
	uint64_t bytes;
	int first_errno;
	const char *problem;
	double seconds;
};

static volatile sig_atomic_t time_is_up;
static uint32_t samples[MAX_SAMPLES]; /* nanoseconds, one per round trip or connection */
static size_t sampled;
static char piece[MAX_PIECE];

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void on_alarm(int number)
{
	(void)number;
	time_is_up = 1;
}

static void start_timer(double seconds)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval timer = {.it_interval = {0, 50000}};

	timer.it_value.tv_sec = (time_t)seconds;
	timer.it_value.tv_usec = (suseconds_t)((seconds - (double)timer.it_value.tv_sec) * 1e6);
	if (!timer.it_value.tv_sec && !timer.it_value.tv_usec)
		timer.it_value.tv_usec = 1;
	sigaction(SIGALRM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static void sample(double since)
{
	double ns = (now() - since) * 1e9;

	if (sampled < MAX_SAMPLES)
		samples[sampled++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void fail(struct tally *tally, const char *problem, int error)
{
	tally->failed++;
	if (!tally->problem) {
		tally->problem = problem;
		tally->first_errno = error;
	}
}

/* A connected socket, or -1 with errno; non-blocking ones may still be connecting. */
static int open_socket(const struct options *opt, int flags)
{
	int fd = socket(opt->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)&opt->address, opt->address_size) && errno != EINPROGRESS) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = write(fd, data, size);

		if (sent < 0)
			return -1;
		data += sent;
		size -= (size_t)sent;
	}
	return 0;
}

/* 0 when `size` bytes came; -1 with errno, which is 0 for an early end of file. */
static int read_all(int fd, char *data, size_t size)
{
	while (size) {
		ssize_t got = read(fd, data, size);

		if (got <= 0) {
			if (!got)
				errno = 0;
			return -1;
		}
		data += got;
		size -= (size_t)got;
	}
	return 0;
}

/* Whether an interrupted call ended because the time is up, which for conn and rr is no failure. */
static int timed_out(void)
{
	return time_is_up && (errno == EINTR || errno == EINPROGRESS || errno == EALREADY);
}

static int more(const struct options *opt, uint64_t started)
{
	return !time_is_up && (!opt->count || started < opt->count);
}

static void run_conn_one(const struct options *opt, struct tally *tally)
{
	char byte[2];

	for (uint64_t started = 0; more(opt, started); started++) {
		double since = now();
		int fd = open_socket(opt, 0);

		if (fd < 0) {
			if (timed_out())
				return;
			fail(tally, "connect", errno);
			continue;
		}
		ssize_t got = read(fd, byte, sizeof byte);

		if (got == 1)
			got = read(fd, byte, sizeof byte) == 0 ? 1 : -2;
		if (got == 1) {
			tally->ok++;
			sample(since);
		} else if (!timed_out()) {
			fail(tally, got == -1 ? "read" : "wrong-answer", got == -1 ? errno : 0);
		}
		close(fd);
	}
}

struct slot {
	int fd;
	int got;
	double since;
};

static struct slot slots[MAX_INFLIGHT];

/* Opens slot `i`; 0 when nothing is under way in it, whether the connect failed or there is nothing more to do. */
static int launch(const struct options *opt, struct tally *tally, int epoll, int i, uint64_t *started)
{
	while (more(opt, *started)) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};

		++*started;
		slots[i].since = now();
		slots[i].got = 0;
		slots[i].fd = open_socket(opt, SOCK_NONBLOCK);
		if (slots[i].fd >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, slots[i].fd, &event))
			return 1;
		fail(tally, "connect", errno);
		if (slots[i].fd >= 0)
			close(slots[i].fd);
	}
	return 0;
}

/* Reads what came in slot `i`; whether its connection is over. */
static int advance(struct tally *tally, struct slot *slot)
{
	char byte[2];

	for (;;) {
		ssize_t got = read(slot->fd, byte, sizeof byte);

		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (got < 0)
			fail(tally, slot->got ? "read" : "connect-or-read", errno);
		else if (got > 0 && slot->got + got == 1) {
			slot->got = 1;
			continue;
		} else if (!got && slot->got == 1) {
			tally->ok++;
			sample(slot->since);
		} else
			fail(tally, "wrong-answer", 0);
		return 1;
	}
}

static void run_conn_many(const struct options *opt, struct tally *tally)
{
	struct epoll_event events[EVENTS];
	int epoll = epoll_create1(EPOLL_CLOEXEC), active = 0;
	uint64_t started = 0;

	for (int i = 0; i < opt->inflight; i++)
		active += launch(opt, tally, epoll, i, &started);
	while (active && !time_is_up) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int k = 0; k < ready; k++) {
			int i = (int)events[k].data.u32;

			if (!advance(tally, &slots[i]))
				continue;
			close(slots[i].fd);
			active += launch(opt, tally, epoll, i, &started) - 1;
		}
	}
	close(epoll);
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void run_rr(const struct options *opt, struct tally *tally)
{
	static char back[MAX_PIECE];
	int fd = open_socket(opt, 0);

	if (fd < 0) {
		fail(tally, "connect", errno);
		return;
	}
	no_delay(fd);
	while (more(opt, tally->ok)) {
		double since = now();

		piece[0] = (char)tally->ok;
		if (write_all(fd, piece, opt->size) || read_all(fd, back, opt->size)) {
			if (!timed_out())
				fail(tally, errno ? "io" : "early-eof", errno);
			break;
		}
		if (memcmp(piece, back, opt->size)) {
			fail(tally, "wrong-answer", 0);
			break;
		}
		sample(since);
		tally->ok++;
		tally->bytes += opt->size;
	}
	close(fd);
}

static void run_up(const struct options *opt, struct tally *tally)
{
	int fd = open_socket(opt, 0);
	char end;

	if (fd < 0) {
		fail(tally, "connect", errno);
		return;
	}
	while (tally->bytes < opt->bytes) {
		uint64_t left = opt->bytes - tally->bytes;
		ssize_t sent = write(fd, piece, left < opt->size ? (size_t)left : opt->size);

		if (sent < 0) {
			fail(tally, timed_out() ? "timeout" : "write", errno);
			break;
		}
		tally->bytes += (uint64_t)sent;
	}
	if (!tally->failed) {
		/* The peer's end of file says that all of it arrived, not only that it fitted into buffers. */
		shutdown(fd, SHUT_WR);
		if (read(fd, &end, 1) == 0)
			tally->ok = 1;
		else
			fail(tally, timed_out() ? "timeout" : "no-eof", errno);
	}
	close(fd);
}

static void run_down(const struct options *opt, struct tally *tally)
{
	int fd = open_socket(opt, 0);
	unsigned char wish[8];

	if (fd < 0) {
		fail(tally, "connect", errno);
		return;
	}
	for (int i = 0; i < 8; i++)
		wish[i] = (unsigned char)(opt->bytes >> (56 - 8 * i));
	if (!opt->quiet && write_all(fd, (const char *)wish, sizeof wish))
		fail(tally, "write", errno);
	while (!tally->failed && tally->bytes < opt->bytes) {
		uint64_t left = opt->bytes - tally->bytes;
		ssize_t got = read(fd, piece, left < opt->size ? (size_t)left : opt->size);

		if (got <= 0)
			fail(tally, !got ? "early-eof" : timed_out() ? "timeout" : "read", got ? errno : 0);
		else
			tally->bytes += (uint64_t)got;
	}
	if (!tally->failed && !opt->quiet && read(fd, piece, 1) != 0)
		fail(tally, timed_out() ? "timeout" : "no-eof", 0);
	tally->ok = !tally->failed;
	close(fd);
}

static void line_of(char line[LINE_SIZE], int i)
{
	snprintf(line, LINE_SIZE, "connection %d of process %d\n", i, (int)getpid());
}

static void run_hold(const struct options *opt, struct tally *tally)
{
	char line[LINE_SIZE], back[LINE_SIZE];

	for (int i = 0; i < opt->inflight; i++) {
		slots[i].fd = open_socket(opt, 0);
		if (slots[i].fd < 0)
			fail(tally, timed_out() ? "timeout" : "connect", errno);
	}
	for (int i = 0; i < opt->inflight; i++) {
		line_of(line, i);
		slots[i].got = slots[i].fd >= 0 && !write_all(slots[i].fd, line, strlen(line));
		if (slots[i].fd >= 0 && !slots[i].got)
			fail(tally, timed_out() ? "timeout" : "write", errno);
	}
	for (int i = 0; i < opt->inflight; i++) {
		if (!slots[i].got)
			continue;
		line_of(line, i);
		if (read_all(slots[i].fd, back, strlen(line)))
			fail(tally, timed_out() ? "timeout" : errno ? "read" : "early-eof", errno);
		else if (memcmp(line, back, strlen(line)))
			fail(tally, "wrong-answer", 0);
		else {
			tally->ok++;
			tally->bytes += strlen(line);
		}
	}
	for (int i = 0; i < opt->inflight; i++)
		if (slots[i].fd >= 0)
			close(slots[i].fd);
}

static int by_value(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

static double percentile_us(double share)
{
	if (!sampled)
		return 0;
	return samples[(size_t)((double)(sampled - 1) * share)] / 1e3;
}

static double cpu_seconds(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
}

static void report(const struct options *opt, const struct tally *tally)
{
	double seconds = tally->seconds > 0 ? tally->seconds : 1e-9;

	qsort(samples, sampled, sizeof samples[0], by_value);
	printf("mode=%s ok=%llu failed=%llu bytes=%llu seconds=%.6f per_second=%.1f mb_per_second=%.3f "
	       "p50_us=%.1f p99_us=%.1f max_us=%.1f cpu_seconds=%.3f inflight=%d size=%zu problem=%s errno=%d\n",
	       opt->mode, (unsigned long long)tally->ok, (unsigned long long)tally->failed,
	       (unsigned long long)tally->bytes, tally->seconds, (double)tally->ok / seconds,
	       (double)tally->bytes / seconds / 1e6, percentile_us(0.5), percentile_us(0.99), percentile_us(1.0),
	       cpu_seconds(), opt->inflight, opt->size, tally->problem ? tally->problem : "none",
	       tally->first_errno);
}

static int usage(const char *why)
{
	fprintf(stderr,
		"vnicbench: %s\n"
		"usage: vnicbench conn|rr|up|down|hold ADDR PORT [-n N] [-c COUNT] [-b BYTES] [-t SECONDS] "
		"[-s SIZE] [-q]\n",
		why);
	return 2;
}

static int parse_address(struct options *opt, const char *text, const char *port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&opt->address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&opt->address;
	long number = strtol(port, NULL, 10);

	if (number < 1 || number > 65535)
		return -1;
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)number);
		opt->address_size = sizeof *v4;
		return 0;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
		return -1;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)number);
	opt->address_size = sizeof *v6;
	return 0;
}

static int parse_options(struct options *opt, int argc, char **argv)
{
	int letter;

	while ((letter = getopt(argc, argv, "n:c:b:t:s:q")) != -1) {
		switch (letter) {
		case 'n': opt->inflight = atoi(optarg); break;
		case 'c': opt->count = strtoull(optarg, NULL, 10); break;
		case 'b': opt->bytes = strtoull(optarg, NULL, 10); break;
		case 't': opt->seconds = strtod(optarg, NULL); break;
		case 's': opt->size = (size_t)strtoull(optarg, NULL, 10); break;
		case 'q': opt->quiet = 1; break;
		default: return -1;
		}
	}
	return argc - optind == 3 ? 0 : -1;
}

static int set_up(struct options *opt, int argc, char **argv)
{
	if (parse_options(opt, argc, argv))
		return usage("a mode, an address and a port are needed");
	opt->mode = argv[optind];
	if (parse_address(opt, argv[optind + 1], argv[optind + 2]))
		return usage("the address has to be numeric, the port 1 to 65535");
	if (opt->inflight < 1 || opt->inflight > MAX_INFLIGHT)
		return usage("-n is 1 to 4096");
	if (!opt->size)
		opt->size = strcmp(opt->mode, "rr") ? 65536 : 1;
	if (opt->size > MAX_PIECE)
		return usage("-s is at most 1048576");
	if (opt->seconds == 0)
		opt->seconds = opt->count ? 60 : 10;
	if (!(opt->seconds > 0 && opt->seconds <= 86400))
		return usage("-t is more than 0 and at most 86400");
	return 0;
}

static int run(const struct options *opt, struct tally *tally)
{
	if (!strcmp(opt->mode, "conn") && opt->inflight == 1)
		run_conn_one(opt, tally);
	else if (!strcmp(opt->mode, "conn"))
		run_conn_many(opt, tally);
	else if (!strcmp(opt->mode, "rr"))
		run_rr(opt, tally);
	else if (!strcmp(opt->mode, "up"))
		run_up(opt, tally);
	else if (!strcmp(opt->mode, "down"))
		run_down(opt, tally);
	else if (!strcmp(opt->mode, "hold"))
		run_hold(opt, tally);
	else
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct options opt = {.bytes = 100000000, .inflight = 1};
	struct tally tally = {0};
	int wrong = set_up(&opt, argc, argv);

	if (wrong)
		return wrong;
	memset(piece, 'v', sizeof piece);
	struct rlimit files = {MAX_INFLIGHT + 16, MAX_INFLIGHT + 16};

	setrlimit(RLIMIT_NOFILE, &files);
	start_timer(opt.seconds);
	double started = now();

	if (run(&opt, &tally))
		return usage("the mode is conn, rr, up, down or hold");
	tally.seconds = now() - started;
	if (time_is_up && !tally.failed && (!tally.ok || tally.ok < opt.count))
		fail(&tally, "timeout", 0);
	report(&opt, &tally);
	return tally.failed ? 1 : 0;
}
