/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the helper-free headers need to be one source for BPF and for the host:
 * inlining, barriers that hide a value from the optimiser (so that a bounds
 * check stays where the verifier wants it), eight-bytes-at-a-time tests.
 */
#pragma once

#ifndef WEFT_INLINE
#define WEFT_INLINE static inline __attribute__((always_inline, unused))
#endif

#ifdef __bpf__
/* The optimiser knows nothing about x from here on; the verifier still does. */
#define WEFT_OPAQUE(x) asm volatile("" : "+r"(x))
/* Memory is reloaded after this: no value stays in a register across it. */
#define WEFT_FORGET() asm volatile("" ::: "memory")
/* n bytes, a variable number, from one map value to another; the includer has
 * read bpf_helpers.h. */
#define WEFT_COPY(to, n, from) bpf_probe_read_kernel(to, n, from)
#else
#define WEFT_OPAQUE(x) ((void)0)
#define WEFT_FORGET() ((void)0)
#define WEFT_COPY(to, n, from) __builtin_memcpy(to, from, n)
#endif

#define WEFT_NOUNROLL _Pragma("clang loop unroll(disable)")

/* Eight bytes in memory order as the word a load would give. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WEFT_WORD(a, b, c, d, e, f, g, h)                                                        \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define WEFT_SWAR 1
#else
#define WEFT_WORD(a, b, c, d, e, f, g, h)                                                        \
	((__u64)(h) | (__u64)(g) << 8 | (__u64)(f) << 16 | (__u64)(e) << 24 | (__u64)(d) << 32 | \
	 (__u64)(c) << 40 | (__u64)(b) << 48 | (__u64)(a) << 56)
#define WEFT_SWAR 0 /* weft_prefix counts from the low byte */
#endif

/* Short literals as words, first byte lowest whatever the byte order. */
#define WEFT_HTTP_1 0x002e312f50545448ULL  /* "HTTP/1." */
#define WEFT_CHUNKED 0x0064656b6e756863ULL /* "chunked" */
/* Byte i of such a literal. */
#define WEFT_WORD_SHIFTED(word, i) (((word) >> (((i) & 7) * 8)) & 0xff)

/* The same byte eight times. */
#define WEFT_EACH(byte) (0x0101010101010101ULL * (byte))

WEFT_INLINE __u64 weft_load64(const __u8 *at)
{
#ifdef __bpf__
	return *(const __u64 *)at; /* unaligned is fine in map memory */
#else
	__u64 word;

	__builtin_memcpy(&word, at, sizeof(word));
	return word;
#endif
}

WEFT_INLINE void weft_store64(__u8 *at, __u64 word)
{
#ifdef __bpf__
	*(__u64 *)at = word;
#else
	__builtin_memcpy(at, &word, sizeof(word));
#endif
}

/*
 * Tests of eight bytes: the top bit of a byte is set where it holds. For
 * weft_below and weft_equal only the lowest set bit is exact (a borrow may set
 * higher ones); limit is at most 0x80. The others are exact everywhere.
 */
WEFT_INLINE __u64 weft_below(__u64 word, __u64 limit)
{
	return (word - WEFT_EACH(limit)) & ~word & WEFT_EACH(0x80);
}

WEFT_INLINE __u64 weft_equal(__u64 word, __u64 byte)
{
	return weft_below(word ^ WEFT_EACH(byte), 1);
}

WEFT_INLINE __u64 weft_exactly(__u64 word, __u64 byte)
{
	__u64 differ = word ^ WEFT_EACH(byte);

	return ~(((differ & WEFT_EACH(0x7f)) + WEFT_EACH(0x7f)) | differ) & WEFT_EACH(0x80);
}

/* first..last, both ASCII. */
WEFT_INLINE __u64 weft_between(__u64 word, __u64 first, __u64 last)
{
	__u64 low = word & WEFT_EACH(0x7f);

	return (low + WEFT_EACH(0x80 - first)) & ~(low + WEFT_EACH(0x7f - last)) & ~word &
	       WEFT_EACH(0x80);
}

/* Bytes before the lowest marked one; 8 if none is. Little endian. */
WEFT_INLINE __u64 weft_prefix(__u64 marks)
{
	__u64 lowest = (marks & -marks) >> 7;

	return (((lowest - 1) & WEFT_EACH(1)) * WEFT_EACH(1)) >> 56;
}

/* The first count bytes of word, the rest zero. Little endian. */
WEFT_INLINE __u64 weft_head_of(__u64 word, __u64 count)
{
	if (count >= 8)
		return word;
	return word & ((1ULL << (count * 8)) - 1);
}

/* Value of a hexadecimal digit; 16 or more if c is none. */
WEFT_INLINE __u32 weft_hex_any_case(__u32 c)
{
	__u32 digit = (c - '0') & 0xff;
	__u32 letter = ((c | 0x20) - 'a') & 0xff;

	if (digit < 10)
		return digit;
	return letter < 6 ? letter + 10 : 16;
}
