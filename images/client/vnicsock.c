/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vnicsock: makes the socket calls that it is told to, so that a program outside of the guest can use the guest's
 * kernel as a server (or client) step by step.
 *
 *   vnicsock DEVICE ADDRESS/PREFIX PEER PEER-MAC [ADDRESS6/PREFIX PEER6]
 *
 * reads commands from standard input, one on a line, and answers each with one line, after which the call has been
 * made: "@ok", "@ok VALUE..." or "@err ERRNO".  A line that it does not understand is "@bad".
 *
 *   begin                     a new network namespace, into which DEVICE moves; there it gets ADDRESS, and PEER a
 *                             permanent neighbour entry.  Nothing of an earlier connection is left in it: no socket,
 *                             no counter, no cached route, and every sysctl has its default.  IPv6 is off
 *   begin 6                   the same with IPv6: ADDRESS6 without a search for duplicates, PEER6 a permanent neighbour,
 *                             no other address, no router solicitations
 *   end                       leaves the namespace: its sockets close, DEVICE comes back
 *   sysctl NAME VALUE         NAME below /proc/sys/net; blanks in VALUE are "/".  "@ok same" if it had that value
 *   counters                  /proc/net/snmp and netstat as "Group.Name=VALUE", snmp6 as "Name=VALUE": those that are not 0
 *   socket FAMILY TYPE        "@ok FD"; the socket does not block
 *   setsockopt FD LEVEL NAME i:NUMBER | x:HEX
 *   getsockopt FD LEVEL NAME SIZE          "@ok HEX"
 *   bind FD ADDRESS PORT, connect FD ADDRESS PORT, listen FD BACKLOG, shutdown FD HOW, close FD
 *   accept FD                 "@ok FD ADDRESS PORT"; it does not block either
 *   recv FD SIZE FLAGS        "@ok x:HEX"
 *   send FD FLAGS x:HEX, sendto FD FLAGS x:HEX ADDRESS PORT    "@ok NUMBER"
 *   recvmsg FD SIZE ROOM FLAGS    "@ok x:HEX FLAGS ADDRESS PORT [LEVEL TYPE x:HEX]...": ROOM bytes for ancillary data;
 *                             without a sender the address is "-"
 *   poll FD EVENTS            "@ok REVENTS" at once
 *   ioctl FD REQUEST          "@ok NUMBER": for requests that give an int
 *
 * One process per namespace: "begin" forks, the child serves until "end", its exit ends the namespace.  The child
 * moves the device back itself, so that nobody waits for the kernel to take the namespace down.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { LINE = 1 << 18, WORDS = 8, FILE_SIZE = 1 << 15 };

struct setup {
	const char *device;
	char address[64];
	unsigned prefix;
	const char *peer;
	unsigned char mac[6];
	char address6[64];
	unsigned prefix6;
	const char *peer6;
};

static char line[LINE];
static unsigned char data[LINE / 2];

static void answer_errno(void)
{
	printf("@err %d\n", errno);
}

static void answer_result(long result)
{
	if (result < 0)
		answer_errno();
	else
		printf("@ok %ld\n", result);
}

/* -- the device and its namespace ------------------------------------------------------------------------------- */

struct request {
	struct nlmsghdr head;
	union {
		struct ifinfomsg link;
		struct ndmsg neighbour;
	} body;
	char attributes[64];
};

static void add_attribute(struct request *request, unsigned short type, const void *value, size_t size)
{
	struct rtattr *attribute = (struct rtattr *)((char *)request + request->head.nlmsg_len);

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), value, size);
	request->head.nlmsg_len += RTA_SPACE(size);
}

static int ask_kernel(struct request *request)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} reply;
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	ssize_t got = -1;

	if (s < 0)
		return -1;
	request->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(s, request, request->head.nlmsg_len, 0) >= 0)
		got = recv(s, &reply, sizeof reply, 0);
	close(s);
	if (got < (ssize_t)sizeof reply)
		return -1;
	errno = -reply.error.error;
	return reply.error.error ? -1 : 0;
}

static int move_device(const char *device, int namespace)
{
	struct request request = {0};

	request.head.nlmsg_len = NLMSG_LENGTH(sizeof request.body.link);
	request.head.nlmsg_type = RTM_NEWLINK;
	request.body.link.ifi_index = (int)if_nametoindex(device);
	add_attribute(&request, IFLA_NET_NS_FD, &namespace, sizeof namespace);
	return ask_kernel(&request);
}

static int set_up(int s, const char *device, short flags)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, IFNAMSIZ, "%s", device);
	if (ioctl(s, SIOCGIFFLAGS, &request) < 0)
		return -1;
	request.ifr_flags |= flags;
	return ioctl(s, SIOCSIFFLAGS, &request);
}

static int set_address(int s, const struct setup *setup)
{
	struct ifreq request = {0};
	struct sockaddr_in *where = (struct sockaddr_in *)&request.ifr_addr;

	snprintf(request.ifr_name, IFNAMSIZ, "%s", setup->device);
	where->sin_family = AF_INET;
	inet_pton(AF_INET, setup->address, &where->sin_addr);
	if (ioctl(s, SIOCSIFADDR, &request) < 0)
		return -1;
	where->sin_addr.s_addr = htonl(~0u << (32 - setup->prefix));
	return ioctl(s, SIOCSIFNETMASK, &request);
}

static int set_neighbour(int s, const struct setup *setup)
{
	struct arpreq request = {.arp_flags = ATF_COM | ATF_PERM};
	struct sockaddr_in *where = (struct sockaddr_in *)&request.arp_pa;

	where->sin_family = AF_INET;
	inet_pton(AF_INET, setup->peer, &where->sin_addr);
	request.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(request.arp_ha.sa_data, setup->mac, sizeof setup->mac);
	snprintf(request.arp_dev, sizeof request.arp_dev, "%s", setup->device);
	return ioctl(s, SIOCSARP, &request);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t written = fd < 0 ? -1 : write(fd, text, strlen(text));
	int problem = errno;

	if (fd >= 0)
		close(fd);
	errno = problem;
	return written < 0 ? -1 : 0;
}

static int configure(const struct setup *setup)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	int result = s < 0 || set_up(s, "lo", IFF_UP) < 0 || set_address(s, setup) < 0 ||
		     set_up(s, setup->device, IFF_UP | IFF_RUNNING) < 0 || set_neighbour(s, setup) < 0;

	if (s >= 0)
		close(s);
	return result ? -1 : 0;
}

/* What is in linux/ipv6.h, which does not go together with netinet/in.h. */
struct in6_ifreq {
	struct in6_addr address;
	uint32_t prefix;
	int index;
};

static int set_address6(const struct setup *setup)
{
	struct in6_ifreq request = {.prefix = setup->prefix6, .index = (int)if_nametoindex(setup->device)};
	int s = socket(AF_INET6, SOCK_DGRAM, 0), result;

	inet_pton(AF_INET6, setup->address6, &request.address);
	result = s < 0 ? -1 : ioctl(s, SIOCSIFADDR, &request);
	if (s >= 0)
		close(s);
	return result;
}

static int set_neighbour6(const struct setup *setup)
{
	struct request request = {0};
	struct in6_addr peer;

	request.head.nlmsg_len = NLMSG_LENGTH(sizeof request.body.neighbour);
	request.head.nlmsg_type = RTM_NEWNEIGH;
	request.head.nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
	request.body.neighbour.ndm_family = AF_INET6;
	request.body.neighbour.ndm_ifindex = (int)if_nametoindex(setup->device);
	request.body.neighbour.ndm_state = NUD_PERMANENT;
	inet_pton(AF_INET6, setup->peer6, &peer);
	add_attribute(&request, NDA_DST, &peer, sizeof peer);
	add_attribute(&request, NDA_LLADDR, setup->mac, sizeof setup->mac);
	return ask_kernel(&request);
}

/* The device says nothing of itself, and what it has to tell of its groups it tells at once. */
static int quiet6(const char *device)
{
	static const char *const values[][2] = {
		{"addr_gen_mode", "1"}, {"router_solicitations", "0"}, {"accept_dad", "0"}, {"accept_ra", "0"},
		{"mldv2_unsolicited_report_interval", "1"},
	};
	char path[128];

	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/%s", device, values[i][0]);
		if (write_file(path, values[i][1]) < 0)
			return -1;
	}
	return 0;
}

static int configure_all(const struct setup *setup, int ipv6)
{
	if (!ipv6) {
		write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
		return configure(setup);
	}
	return quiet6(setup->device) < 0 || configure(setup) < 0 || set_address6(setup) < 0 ||
	       set_neighbour6(setup) < 0 ? -1 : 0;
}

/* -- files of /proc ---------------------------------------------------------------------------------------------- */

static ssize_t read_file(const char *path, char *into, size_t size)
{
	int fd = open(path, O_RDONLY);
	size_t have = 0;
	ssize_t got = -1;

	if (fd < 0)
		return -1;
	while (have + 1 < size && (got = read(fd, into + have, size - 1 - have)) > 0)
		have += (size_t)got;
	close(fd);
	into[have] = 0;
	return got < 0 ? -1 : (ssize_t)have;
}

/* One kind of blank, and no newline at the end. */
static void normalise(char *text)
{
	text[strcspn(text, "\n")] = 0;
	for (; *text; text++)
		if (*text == '\t' || *text == '/')
			*text = ' ';
}

static void command_sysctl(const char *name, char *value)
{
	char path[256], have[256];

	snprintf(path, sizeof path, "/proc/sys/net/%s", name);
	if (read_file(path, have, sizeof have) < 0) {
		answer_errno();
		return;
	}
	normalise(have);
	normalise(value);
	if (!strcmp(have, value))
		printf("@ok same\n");
	else if (write_file(path, value) < 0)
		answer_errno();
	else
		printf("@ok set\n");
}

/* Two lines each: "Group: Name Name ..." and "Group: 0 0 ...". */
static void print_counters(char *text)
{
	char *next_name, *next_value, *group, *name, *value, *names, *values;

	while ((names = strsep(&text, "\n")) && *names && (values = strsep(&text, "\n"))) {
		group = strtok_r(names, ": ", &next_name);
		strtok_r(values, ": ", &next_value);
		while ((name = strtok_r(NULL, " ", &next_name)) && (value = strtok_r(NULL, " ", &next_value)))
			if (strcmp(value, "0"))
				printf(" %s.%s=%s", group, name, value);
	}
}

/* One on a line: "Name value". */
static void print_counters6(char *text)
{
	char *one, *value;

	while ((one = strsep(&text, "\n")) && *one)
		if ((one = strtok_r(one, " \t", &value)) && atoll(value))
			printf(" %s=%lld", one, atoll(value));
}

static void command_counters(void)
{
	static char text[FILE_SIZE];

	printf("@ok");
	if (read_file("/proc/net/snmp", text, sizeof text) > 0)
		print_counters(text);
	if (read_file("/proc/net/netstat", text, sizeof text) > 0)
		print_counters(text);
	if (read_file("/proc/net/snmp6", text, sizeof text) > 0)
		print_counters6(text);
	printf("\n");
}

/* -- socket calls ------------------------------------------------------------------------------------------------- */

static int address_of(const char *text, const char *port, struct sockaddr_storage *into)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)into;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)into;

	memset(into, 0, sizeof *into);
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)atoi(port));
		return sizeof *v4;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
		return -1;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)atoi(port));
	return sizeof *v6;
}

static ssize_t from_hex(const char *text)
{
	size_t length = strlen(text) / 2, i;

	for (i = 0; i < length && i < sizeof data; i++)
		if (sscanf(text + 2 * i, "%2hhx", &data[i]) != 1)
			return -1;
	return (ssize_t)i;
}

static void answer_hex(ssize_t size)
{
	static const char digits[] = "0123456789abcdef";

	if (size < 0) {
		answer_errno();
		return;
	}
	printf("@ok x:");
	for (ssize_t i = 0; i < size; i++) {
		putchar(digits[data[i] >> 4]);
		putchar(digits[data[i] & 15]);
	}
	printf("\n");
}

/* " ADDRESS PORT" */
static void print_address(const struct sockaddr_storage *where)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)where;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)where;
	char text[INET6_ADDRSTRLEN];

	if (where->ss_family == AF_INET)
		inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
	else
		inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
	printf(" %s %u", text, ntohs(where->ss_family == AF_INET ? v4->sin_port : v6->sin6_port));
}

static void command_accept(int fd)
{
	struct sockaddr_storage peer;
	socklen_t size = sizeof peer;
	int child = accept4(fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK);

	if (child < 0) {
		answer_errno();
		return;
	}
	printf("@ok %d", child);
	print_address(&peer);
	printf("\n");
}

static void command_option(int fd, int level, int name, const char *value)
{
	int number = atoi(value + 2);
	ssize_t size = *value == 'i' ? (ssize_t)sizeof number : from_hex(value + 2);

	if (size < 0)
		printf("@bad\n");
	else
		answer_result(setsockopt(fd, level, name, *value == 'i' ? (void *)&number : data, (socklen_t)size));
}

static void command_get_option(int fd, int level, int name, socklen_t size)
{
	answer_hex(getsockopt(fd, level, name, data, &size) < 0 ? -1 : (ssize_t)size);
}

static void command_address(int fd, const char *call, const char *address, const char *port)
{
	struct sockaddr_storage where;
	int size = address_of(address, port, &where);

	if (size < 0)
		printf("@bad\n");
	else if (*call == 'b')
		answer_result(bind(fd, (struct sockaddr *)&where, (socklen_t)size));
	else
		answer_result(connect(fd, (struct sockaddr *)&where, (socklen_t)size));
}

static void command_recv(int fd, size_t size, int flags)
{
	answer_hex(recv(fd, data, size < sizeof data ? size : sizeof data, flags | MSG_DONTWAIT));
}

static void command_send(int fd, int flags, const char *hex)
{
	ssize_t size = from_hex(hex);

	if (size < 0)
		printf("@bad\n");
	else
		answer_result(send(fd, data, (size_t)size, flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void command_send_to(int fd, int flags, const char *hex, const char *address, const char *port)
{
	struct sockaddr_storage where;
	ssize_t size = from_hex(hex);
	int length = address_of(address, port, &where);

	if (size < 0 || length < 0)
		printf("@bad\n");
	else
		answer_result(sendto(fd, data, (size_t)size, flags | MSG_DONTWAIT | MSG_NOSIGNAL,
				     (struct sockaddr *)&where, (socklen_t)length));
}

static void print_hex(const unsigned char *bytes, size_t size)
{
	printf("x:");
	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
}

static void command_recvmsg(int fd, size_t size, size_t room, int flags)
{
	static union { struct cmsghdr align; unsigned char bytes[4096]; } control;
	struct iovec part = { data, size < sizeof data ? size : sizeof data };
	struct sockaddr_storage peer = { 0 };
	struct msghdr msg = { &peer, sizeof peer, &part, 1, &control, room < sizeof control ? room : sizeof control, 0 };
	ssize_t got = recvmsg(fd, &msg, flags | MSG_DONTWAIT);

	if (got < 0) {
		answer_errno();
		return;
	}
	printf("@ok ");
	print_hex((unsigned char *)data, (size_t)got < part.iov_len ? (size_t)got : part.iov_len);
	printf(" %d", msg.msg_flags);
	if (msg.msg_namelen)
		print_address(&peer);
	else
		printf(" - 0");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		printf(" %d %d ", c->cmsg_level, c->cmsg_type);
		print_hex(CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	}
	printf("\n");
}

static void command_poll(int fd, short events)
{
	struct pollfd one = { fd, events, 0 };

	if (poll(&one, 1, 0) < 0)
		answer_errno();
	else
		printf("@ok %d\n", one.revents);
}

static void command_ioctl(int fd, unsigned long request)
{
	int value = 0;

	if (ioctl(fd, request, &value) < 0)
		answer_errno();
	else
		printf("@ok %d\n", value);
}

static int is(const char *word, int words, const char *name, int wanted)
{
	return words == wanted && !strcmp(word, name);
}

static void command(char **word, int n)
{
	int fd = n > 1 ? atoi(word[1]) : -1;

	if (is(word[0], n, "sysctl", 3))
		command_sysctl(word[1], word[2]);
	else if (is(word[0], n, "counters", 1))
		command_counters();
	else if (is(word[0], n, "socket", 3))
		answer_result(socket(fd, atoi(word[2]) | SOCK_NONBLOCK, 0));
	else if (is(word[0], n, "setsockopt", 5))
		command_option(fd, atoi(word[2]), atoi(word[3]), word[4]);
	else if (is(word[0], n, "getsockopt", 5))
		command_get_option(fd, atoi(word[2]), atoi(word[3]), (socklen_t)atoi(word[4]));
	else if (is(word[0], n, "bind", 4) || is(word[0], n, "connect", 4))
		command_address(fd, word[0], word[2], word[3]);
	else if (is(word[0], n, "listen", 3))
		answer_result(listen(fd, atoi(word[2])));
	else if (is(word[0], n, "accept", 2))
		command_accept(fd);
	else if (is(word[0], n, "recv", 4))
		command_recv(fd, (size_t)atol(word[2]), atoi(word[3]));
	else if (is(word[0], n, "recvmsg", 5))
		command_recvmsg(fd, (size_t)atol(word[2]), (size_t)atol(word[3]), atoi(word[4]));
	else if (is(word[0], n, "poll", 3))
		command_poll(fd, (short)atoi(word[2]));
	else if (is(word[0], n, "send", 4) && !strncmp(word[3], "x:", 2))
		command_send(fd, atoi(word[2]), word[3] + 2);
	else if (is(word[0], n, "sendto", 6) && !strncmp(word[3], "x:", 2))
		command_send_to(fd, atoi(word[2]), word[3] + 2, word[4], word[5]);
	else if (is(word[0], n, "shutdown", 3))
		answer_result(shutdown(fd, atoi(word[2])));
	else if (is(word[0], n, "close", 2))
		answer_result(close(fd));
	else if (is(word[0], n, "ioctl", 3))
		command_ioctl(fd, strtoul(word[2], NULL, 0));
	else
		printf("@bad\n");
}

/* -- the loop --------------------------------------------------------------------------------------------------- */

/* How many words the next line has; -1 at the end of the input. */
static int next_line(char **word)
{
	char *rest = line;
	int n = 0;

	if (!fgets(line, sizeof line, stdin))
		return -1;
	while (n < WORDS && (word[n] = strtok_r(n ? NULL : line, " \n", &rest)))
		n++;
	return n;
}

static int serve_namespace(const struct setup *setup, int ipv6)
{
	char *word[WORDS];
	int home = open("/proc/self/ns/net", O_RDONLY), mine, n, failed;

	if (home < 0 || unshare(CLONE_NEWNET) < 0 || (mine = open("/proc/self/ns/net", O_RDONLY)) < 0 ||
	    setns(home, CLONE_NEWNET) < 0 || move_device(setup->device, mine) < 0 || setns(mine, CLONE_NEWNET) < 0) {
		answer_errno();
		return 0;
	}
	failed = configure_all(setup, ipv6) < 0;
	if (failed)
		answer_errno();
	else
		printf("@ok\n");
	while (!failed && (n = next_line(word)) >= 0 && !is(n ? word[0] : "", n, "end", 1))
		if (n)
			command(word, n);
	answer_result(move_device(setup->device, home));
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: vnicsock DEVICE ADDRESS/PREFIX PEER PEER-MAC [ADDRESS6/PREFIX PEER6] < commands\n");
	return 2;
}

/* A terminal's lines end at 4095 bytes, and it echoes. */
static void plain_terminal(void)
{
	struct termios terminal;

	if (tcgetattr(STDIN_FILENO, &terminal) == 0) {
		terminal.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
	}
}

static int parse(struct setup *setup, char **argv)
{
	unsigned char *m = setup->mac;
	struct in_addr ignored;

	setup->device = argv[1];
	setup->peer = argv[3];
	return sscanf(argv[2], "%63[0-9.]/%u", setup->address, &setup->prefix) == 2 && setup->prefix > 0 &&
	       setup->prefix <= 32 && inet_pton(AF_INET, setup->address, &ignored) == 1 &&
	       inet_pton(AF_INET, setup->peer, &ignored) == 1 && if_nametoindex(setup->device) &&
	       sscanf(argv[4], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", m, m + 1, m + 2, m + 3, m + 4, m + 5) == 6;
}

static int parse6(struct setup *setup, char **argv)
{
	struct in6_addr ignored;

	setup->peer6 = argv[6];
	return sscanf(argv[5], "%63[0-9a-f:]/%u", setup->address6, &setup->prefix6) == 2 && setup->prefix6 <= 128 &&
	       inet_pton(AF_INET6, setup->address6, &ignored) == 1 &&
	       inet_pton(AF_INET6, setup->peer6, &ignored) == 1;
}

int main(int argc, char **argv)
{
	struct setup setup = {0};
	char *word[WORDS];
	int n, ipv6;
	pid_t child;

	if ((argc != 5 && argc != 7) || !parse(&setup, argv) || (argc == 7 && !parse6(&setup, argv)))
		return usage();
	setvbuf(stdout, NULL, _IOLBF, 1 << 16);
	setvbuf(stdin, NULL, _IONBF, 0); /* the child must not lose what the parent has read ahead */
	plain_terminal();
	printf("@ready\n");
	while ((n = next_line(word)) >= 0) {
		ipv6 = is(n ? word[0] : "", n, "begin", 2) && argc == 7 && !strcmp(word[1], "6");
		if (!ipv6 && !is(n ? word[0] : "", n, "begin", 1)) {
			if (n)
				printf("@bad\n");
			continue;
		}
		child = fork();
		if (child < 0)
			answer_errno();
		else if (!child)
			return serve_namespace(&setup, ipv6);
		else
			waitpid(child, NULL, 0);
	}
	return 0;
}
