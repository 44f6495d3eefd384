/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vnicflood: what a hostile user of the guest can send, to see what a server at the other end makes of it.
 *
 *   vnicflood MODE SERVER PORT [-n COUNT] [-t SECONDS]
 *
 *   syn    SYNs from addresses of the guest's own subnet that nobody has
 *   ack    ACKs from such addresses with numbers out of thin air (forged cookies)
 *   rst    RSTs from such addresses
 *   data   data segments from such addresses
 *   frag   first fragments of datagrams that never become complete
 *   scan   SYNs from the guest's own address to one port after the other, from 1 up and round again
 *
 * Sends COUNT packets (100000) through a raw socket as fast as the guest can, and ends at SECONDS (30) at the latest.
 * Output: one line "mode=... sent=... seconds=...".  Exit code 0, 1 if the kernel refused a packet for a reason other
 * than a full queue, 2 for wrong usage.  Only SERVER is sent to; the subnet is that of the interface that leads there,
 * taken to be SERVER's /24.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATA_SIZE = 64, FRAGMENT_SIZE = 512, HOSTS = 200, FIRST_HOST = 50 };

struct packet {
	struct iphdr ip;
	struct tcphdr tcp;
	unsigned char rest[FRAGMENT_SIZE];
};

struct flood {
	const char *mode;
	struct sockaddr_in server;
	uint32_t own; /* network order, as the next */
	uint32_t subnet;
	uint64_t count;
	double seconds;
};

static uint64_t state = 0x9E3779B97F4A7C15u; /* the same packets each time */

/* xorshift64, Marsaglia 2003. */
static uint32_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* RFC 1071, of an even number of bytes. */
static uint32_t sum(const void *from, size_t size, uint32_t total)
{
	const char *at = from;
	uint16_t word;

	for (; size > 1; size -= sizeof word, at += sizeof word) {
		memcpy(&word, at, sizeof word);
		total += word;
	}
	return total;
}

static uint16_t fold(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

/* Of a TCP segment of that size. */
static void set_checksum(struct packet *packet, size_t size)
{
	struct {
		uint32_t source, destination;
		uint16_t protocol, length;
	} pseudo = {packet->ip.saddr, packet->ip.daddr, htons(IPPROTO_TCP), htons((uint16_t)size)};

	packet->tcp.check = 0;
	packet->tcp.check = fold(sum(&packet->tcp, size, sum(&pseudo, sizeof pseudo, 0)));
}

static void set_flags(struct packet *packet, const char *mode)
{
	packet->tcp.syn = !strcmp(mode, "syn") || !strcmp(mode, "scan");
	packet->tcp.rst = !strcmp(mode, "rst");
	packet->tcp.ack = !strcmp(mode, "ack") || !strcmp(mode, "data");
	packet->tcp.psh = !strcmp(mode, "data");
}

/* The packet's size. */
static size_t make(struct packet *packet, const struct flood *flood, uint64_t number)
{
	int fragment = !strcmp(flood->mode, "frag"), scan = !strcmp(flood->mode, "scan");
	size_t body = !strcmp(flood->mode, "data") ? DATA_SIZE : 0;

	packet->ip.id = htons((uint16_t)number);
	packet->ip.saddr = scan || fragment ? flood->own : flood->subnet | htonl(FIRST_HOST + any() % HOSTS);
	if (fragment) {
		packet->ip.frag_off = htons(IP_MF);
		return sizeof *packet;
	}
	packet->tcp.source = htons((uint16_t)(1024 + any() % 64000));
	packet->tcp.dest = scan ? htons((uint16_t)(1 + number % 65535)) : flood->server.sin_port;
	packet->tcp.seq = any();
	packet->tcp.ack_seq = packet->tcp.ack ? any() : 0;
	set_checksum(packet, sizeof packet->tcp + body);
	return sizeof packet->ip + sizeof packet->tcp + body;
}

static int run(int s, const struct flood *flood)
{
	struct packet packet = {.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP}};
	double began = now();
	uint64_t sent = 0, i;

	packet.ip.daddr = flood->server.sin_addr.s_addr;
	packet.tcp.doff = 5;
	packet.tcp.window = 0xffff;
	set_flags(&packet, flood->mode);
	for (i = 0; i < flood->count && (i % 64 || now() - began < flood->seconds); i++) {
		size_t size = make(&packet, flood, i);

		packet.ip.tot_len = htons((uint16_t)size);
		if (sendto(s, &packet, size, 0, (const struct sockaddr *)&flood->server, sizeof flood->server) >= 0)
			sent++;
		else if (errno != ENOBUFS && errno != EAGAIN) {
			perror("vnicflood: sendto");
			return 1;
		}
	}
	printf("mode=%s sent=%llu seconds=%.2f\n", flood->mode, (unsigned long long)sent, now() - began);
	return 0;
}

/* The address that the kernel would send from. */
static uint32_t own_address(const struct sockaddr_in *server)
{
	struct sockaddr_in mine = {0};
	socklen_t size = sizeof mine;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	if (s < 0 || connect(s, (const struct sockaddr *)server, sizeof *server) < 0 ||
	    getsockname(s, (struct sockaddr *)&mine, &size) < 0) {
		perror("vnicflood: no way to the server");
		exit(1);
	}
	close(s);
	return mine.sin_addr.s_addr;
}

static int parse(struct flood *flood, int argc, char **argv)
{
	static const char *const modes[] = {"syn", "ack", "rst", "data", "frag", "scan"};
	size_t i;
	int option;

	while ((option = getopt(argc, argv, "n:t:")) != -1) {
		if (option == 'n')
			flood->count = strtoull(optarg, NULL, 10);
		else if (option == 't')
			flood->seconds = atof(optarg);
		else
			return 0;
	}
	if (argc - optind != 3)
		return 0;
	flood->mode = argv[optind];
	flood->server.sin_family = AF_INET;
	flood->server.sin_port = htons((uint16_t)atoi(argv[optind + 2]));
	for (i = 0; i < sizeof modes / sizeof *modes && strcmp(modes[i], flood->mode); i++)
		;
	return i < sizeof modes / sizeof *modes && flood->count > 0 && flood->seconds > 0 &&
	       inet_pton(AF_INET, argv[optind + 1], &flood->server.sin_addr) == 1;
}

int main(int argc, char **argv)
{
	struct flood flood = {.count = 100000, .seconds = 30};
	int s;

	if (!parse(&flood, argc, argv)) {
		fprintf(stderr, "usage: vnicflood syn|ack|rst|data|frag|scan SERVER PORT [-n COUNT] [-t SECONDS]\n");
		return 2;
	}
	flood.own = own_address(&flood.server);
	flood.subnet = flood.server.sin_addr.s_addr & htonl(0xffffff00);
	s = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	if (s < 0) {
		perror("vnicflood: raw socket");
		return 1;
	}
	return run(s, &flood);
}
