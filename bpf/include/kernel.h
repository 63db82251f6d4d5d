/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The few kernel structures weft reads, with only the fields it reads. CO-RE
 * relocates each access against the running kernel's BTF, so order and size
 * here mean nothing. A suffix after ___ names another shape of the same type
 * (libbpf calls it a flavour); which one applies is asked with
 * bpf_core_field_exists, never by kernel version.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define WEFT_RELOC __attribute__((preserve_access_index))
#define WEFT_INLINE static inline __attribute__((always_inline))

/* Keeps clang from moving or dropping the bounds check that follows. */
#define WEFT_BARRIER(x) asm volatile("" : "+r"(x))

#define IPPROTO_TCP 6
#define AF_INET 2
#define AF_INET6 10

#define TCP_ESTABLISHED 1
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10

#define RCV_SHUTDOWN 1

/* Kernel layouts are the kernel's own: padding here means nothing. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded"

struct in6_addr___weft {
	u8 bytes[16];
};

struct sock_common {
	union {
		u64 skc_addrpair;
		struct {
			__be32 skc_daddr;
			__be32 skc_rcv_saddr;
		};
	};
	union {
		u32 skc_portpair;
		struct {
			__be16 skc_dport;
			u16 skc_num;
		};
	};
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr___weft skc_v6_daddr;
	struct in6_addr___weft skc_v6_rcv_saddr;
	struct {
		s64 counter;
	} skc_cookie;
} WEFT_RELOC;

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	int sk_sndbuf;
	int sk_wmem_queued;
	int sk_err;
	u8 sk_shutdown;
} WEFT_RELOC;

/* sk_shutdown and sk_protocol were bit fields before 5.6; 5.10 is the oldest
 * kernel weft runs on, where both are plain members. */

struct tcp_sock {
	u32 rcv_nxt;
	u32 copied_seq;
	u64 bytes_received;
	u64 bytes_acked;
	u32 snd_una;
	u32 write_seq;
	u32 mss_cache;
	u8 nonagle : 4;
} WEFT_RELOC;

struct iovec {
	u64 iov_base;
	u64 iov_len;
};

enum iter_type___ubuf {
	ITER_UBUF = 1,
	ITER_IOVEC = 2,
};

/* 6.4 and later: __iov and __ubuf_iovec (747b1f65d39a). */
struct iov_iter {
	u8 iter_type;
	u64 iov_offset;
	u64 count;
	const struct iovec *__iov;
	void *ubuf;
	unsigned long nr_segs;
} WEFT_RELOC;

/* Before 6.4: iov. */
struct iov_iter___iov {
	u8 iter_type;
	const struct iovec *iov;
} WEFT_RELOC;

/* Before 5.14: a bit mask in type; ITER_IOVEC is 4 (8cd54c1c8480). */
struct iov_iter___mask {
	unsigned int type;
	const struct iovec *iov;
} WEFT_RELOC;

struct msghdr {
	struct iov_iter msg_iter;
} WEFT_RELOC;

struct sk_msg {
	void *data;
	void *data_end;
	struct sock *sk;
} WEFT_RELOC;

struct bpf_sock_ops_kern {
	struct sock *sk;
} WEFT_RELOC;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
} WEFT_RELOC;

struct thread_info {
	u32 status;
} WEFT_RELOC;

#if defined(__TARGET_ARCH_x86)
struct thread_struct {
	unsigned long fsbase;
} WEFT_RELOC;
#else
struct thread_struct {
	struct {
		unsigned long tp_value;
	} uw;
} WEFT_RELOC;
#endif

struct socket {
	struct file *file;
	struct sock *sk;
} WEFT_RELOC;

struct file {
	void *private_data;
} WEFT_RELOC;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} WEFT_RELOC;

struct files_struct {
	struct fdtable *fdt;
} WEFT_RELOC;

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	u64 start_boottime;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct files_struct *files;
	void *stack;
	struct thread_struct thread;
} WEFT_RELOC;

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long r10;
	unsigned long ax;
	unsigned long orig_ax;
} WEFT_RELOC;
/* Arguments of a function (kprobe) and of a system call differ in the 4th. */
#define REGS_ARG1(r) KERNEL_READ(r, di)
#define REGS_ARG2(r) KERNEL_READ(r, si)
#define REGS_ARG3(r) KERNEL_READ(r, dx)
#define REGS_RET(r) BPF_CORE_READ(r, ax)
#define REGS_SYSCALL(r) KERNEL_READ(r, orig_ax)
#define TASK_IS_COMPAT(t) (KERNEL_READ(t, thread_info.status) & 2) /* TS_COMPAT */
enum {
	NR_read = 0,
	NR_write = 1,
	NR_readv = 19,
	NR_writev = 20,
	NR_sendfile = 40,
	NR_sendto = 44,
	NR_recvfrom = 45,
	NR_sendmsg = 46,
	NR_recvmsg = 47,
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	u64 regs[31];
	s32 syscallno;
	u64 orig_x0;
} WEFT_RELOC;
#define REGS_ARG1(r) KERNEL_READ(r, regs[0])
#define REGS_ARG2(r) KERNEL_READ(r, regs[1])
#define REGS_ARG3(r) KERNEL_READ(r, regs[2])
#define REGS_RET(r) BPF_CORE_READ(r, regs[0])
#define REGS_SYSCALL(r) ((u64)KERNEL_READ(r, syscallno))
#define TASK_IS_COMPAT(t) 0
#define THREAD_SIZE 16384 /* with pages of 4 KiB */
enum {
	NR_read = 63,
	NR_write = 64,
	NR_readv = 65,
	NR_writev = 66,
	NR_sendfile = 71,
	NR_sendto = 206,
	NR_recvfrom = 207,
	NR_sendmsg = 211,
	NR_recvmsg = 212,
};
#else
#error "build with bpf2go -target amd64 or arm64"
#endif

#pragma clang diagnostic pop

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __weak __ksym;

/* Set by the loader where the kernel has this function (6.2), which takes it out
 * elsewhere. */
volatile const u8 casts = 0;

/*
 * A member of the kernel structure at `src`, which may be no structure any more:
 * loaded, and 0 if it cannot be, instead of copied by a helper. Not for bit fields; and
 * a pointer is one to the verifier then, not a number.
 */
#define KERNEL_READ(src, member)                                                         \
	({                                                                               \
		typeof((src)->member) value_;                                            \
                                                                                         \
		if (casts)                                                               \
			value_ = ((typeof(src))bpf_rdonly_cast(                          \
					  src, bpf_core_type_id_kernel(typeof(*(src))))) \
					 ->member;                                       \
		else                                                                     \
			value_ = BPF_CORE_READ(src, member);                             \
		value_;                                                                  \
	})

/* The user's struct msghdr, as passed to sendmsg(2) and recvmsg(2). */
struct user_msghdr_layout {
	u64 name;
	u32 namelen;
	u32 pad;
	u64 iov;
	u64 iovlen;
};
