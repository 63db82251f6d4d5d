/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Baggage (W3C, Candidate Recommendation of May 2024, section 3.3), read a piece of
 * a header line at a time, filtered by key, and joined into one value as it will be
 * written; and raw bytes made into a value of it. Helper-free but for WEFT_COPY. The
 * Go twin is internal/w3c; both read bpf/tests/vectors/baggage.txt.
 *
 *	baggage_reset(b);
 *	for each line of that name:	baggage_feed(b, bytes, n, only, without); ...
 *					baggage_line_end(b);
 *	length = baggage_end(b);	bytes at b->text are what is carried on
 *	baggage_append(b, key, key_len, value);	and more of them
 *
 * A member stays as it came, properties, inner white space and percent-encoding
 * included, without the white space around it. One that is malformed is left out,
 * because a recipient may refuse the whole for it; so is one that does not fit, and
 * from then on all. Empty members vanish. Members of one key all stay, in order.
 *
 * Shape as in tracestate.h.
 */
#pragma once

#include "portable.h"

#define BAGGAGE_MEMBERS 64    /* the floor of the specification, and here the limit */
#define BAGGAGE_MAX 8192      /* bytes carried on, likewise */
#define BAGGAGE_PIECE 64      /* bytes of a line fed at a time, at most */
#define BAGGAGE_KEYS 16	      /* keys in one list */
#define BAGGAGE_KEY_MAX 64    /* bytes of a key that baggage_append takes */
#define BAGGAGE_VALUE_MAX 256 /* bytes of a value that baggage_escape makes */

/* Beyond BAGGAGE_MAX there is room for what baggage_append copies before it knows
 * the sum. A multiple of 8. */
#define BAGGAGE_TEXT (BAGGAGE_MAX + BAGGAGE_KEY_MAX + BAGGAGE_VALUE_MAX + 8)

#define BAGGAGE_HASH_SEED 0xcbf29ce484222325ULL /* FNV-1a, 64 bits */
#define BAGGAGE_HASH_PRIME 0x100000001b3ULL

/* A set of keys by hash; a collision of 64 bits is not reckoned with. */
struct baggage_keys {
	__u32 count;
	__u32 any; /* not 0: every key belongs to it */
	__u64 hash[BAGGAGE_KEYS];
};

/* All zero up to `text` is "nothing read"; text need not be. */
struct baggage {
	__u64 hash;	 /* of the key being read */
	__u32 malformed; /* members left out because the grammar does not allow them */
	__u32 dropped;	 /* because there was no room */
	__u32 filtered;	 /* because of their key */
	__u16 len;	 /* bytes of text that hold whole members, a comma between */
	__u16 pos;	 /* where the next byte of the member being read goes */
	__u16 end;	 /* behind its last byte but blanks */
	__u16 next;	 /* feed: the next byte and how many there are */
	__u16 limit;
	__u8 count;	 /* members in text */
	__u8 state;
	__u8 full;	 /* a member did not fit */
	__u8 out;	 /* the key is not to be carried on */
	__u8 pad[6];
	__u8 text[BAGGAGE_TEXT];
};

/* A value made of raw bytes; all zero up to `text` is the empty one. */
struct baggage_value {
	__u16 len;  /* of text, without blanks at its end */
	__u16 pos;  /* and with them */
	__u16 next; /* loop */
	__u8 over;  /* it did not fit: of no use */
	__u8 pad[1];
	__u8 text[BAGGAGE_VALUE_MAX];
};

_Static_assert(sizeof(struct baggage_keys) == 8 + 8 * BAGGAGE_KEYS, "keys");
_Static_assert(__builtin_offsetof(struct baggage, text) == 40, "baggage state");
_Static_assert(sizeof(struct baggage) == 40 + BAGGAGE_TEXT, "baggage");
_Static_assert(sizeof(struct baggage_value) == 8 + BAGGAGE_VALUE_MAX, "value");
_Static_assert(BAGGAGE_TEXT % 8 == 0, "no padding behind text");

/* Bytes, as the grammar tells them apart. */
enum {
	BAGGAGE_BYTE_OTHER = 0,
	BAGGAGE_BYTE_TOKEN = 1,	   /* of a key (RFC 9110 section 5.6.2), and of a value */
	BAGGAGE_BYTE_IN_VALUE = 2, /* of a value only */
	BAGGAGE_BYTE_EQUALS = 3,
	BAGGAGE_BYTE_COMMA = 4,
	BAGGAGE_BYTE_BLANK = 5, /* space, tab */
	BAGGAGE_BYTE_SEMICOLON = 6,
};

enum {
	BAGGAGE_STATE_BLANK = 0,    /* before a member */
	BAGGAGE_STATE_KEY = 1,
	BAGGAGE_STATE_KEY_TAIL = 2, /* white space behind it */
	BAGGAGE_STATE_EQUALS = 3,   /* before a value, a property's too */
	BAGGAGE_STATE_VALUE = 4,
	BAGGAGE_STATE_VALUE_TAIL = 5,
	BAGGAGE_STATE_SEMICOLON = 6, /* before a property */
	BAGGAGE_STATE_PROPERTY = 7,  /* in its key */
	BAGGAGE_STATE_PROPERTY_TAIL = 8,
	BAGGAGE_STATE_OUT = 9,	     /* this member is left out */
};

enum {
	BAGGAGE_DO_SKIP = 0,
	BAGGAGE_DO_FIRST = 1,
	BAGGAGE_DO_KEY = 2,
	BAGGAGE_DO_EQUALS = 3, /* of the member; a property's is KEEP */
	BAGGAGE_DO_KEEP = 4,
	BAGGAGE_DO_BLANK = 5,  /* inner white space, or none */
	BAGGAGE_DO_COMMIT = 6,
	BAGGAGE_DO_FAIL = 7,
};

/* clang-format off */
static const __u8 baggage_class[256] = { /* 16 a row; none above 0x7e */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	5, 1, 0, 1, 1, 1, 1, 1, 2, 2, 1, 1, 4, 1, 1, 2,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 6, 2, 3, 2, 2,
	2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0, 2, 1, 1,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 2, 1, 0,
};

#define BAGGAGE_TO(state, action) (BAGGAGE_STATE_##state | BAGGAGE_DO_##action << 4)
#define BAGGAGE_FAIL BAGGAGE_TO(OUT, FAIL)
#define BAGGAGE_FAIL_WHOLE BAGGAGE_TO(BLANK, FAIL) /* the byte is its comma */

/* By state, then class in the order of their numbers: the next state and what to do. */
static const __u8 baggage_step_of[16 * 8] = {
	/* BLANK */
	BAGGAGE_FAIL, BAGGAGE_TO(KEY, FIRST), BAGGAGE_FAIL, BAGGAGE_FAIL,
	BAGGAGE_TO(BLANK, SKIP), BAGGAGE_TO(BLANK, SKIP), BAGGAGE_FAIL, BAGGAGE_FAIL,
	/* KEY */
	BAGGAGE_FAIL, BAGGAGE_TO(KEY, KEY), BAGGAGE_FAIL, BAGGAGE_TO(EQUALS, EQUALS),
	BAGGAGE_FAIL_WHOLE, BAGGAGE_TO(KEY_TAIL, BLANK), BAGGAGE_FAIL, BAGGAGE_FAIL,
	/* KEY_TAIL */
	BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_TO(EQUALS, EQUALS),
	BAGGAGE_FAIL_WHOLE, BAGGAGE_TO(KEY_TAIL, BLANK), BAGGAGE_FAIL, BAGGAGE_FAIL,
	/* EQUALS; a value may be empty */
	BAGGAGE_FAIL, BAGGAGE_TO(VALUE, KEEP), BAGGAGE_TO(VALUE, KEEP), BAGGAGE_TO(VALUE, KEEP),
	BAGGAGE_TO(BLANK, COMMIT), BAGGAGE_TO(EQUALS, BLANK), BAGGAGE_TO(SEMICOLON, KEEP), BAGGAGE_FAIL,
	/* VALUE */
	BAGGAGE_FAIL, BAGGAGE_TO(VALUE, KEEP), BAGGAGE_TO(VALUE, KEEP), BAGGAGE_TO(VALUE, KEEP),
	BAGGAGE_TO(BLANK, COMMIT), BAGGAGE_TO(VALUE_TAIL, BLANK), BAGGAGE_TO(SEMICOLON, KEEP), BAGGAGE_FAIL,
	/* VALUE_TAIL */
	BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_FAIL,
	BAGGAGE_TO(BLANK, COMMIT), BAGGAGE_TO(VALUE_TAIL, BLANK), BAGGAGE_TO(SEMICOLON, KEEP), BAGGAGE_FAIL,
	/* SEMICOLON */
	BAGGAGE_FAIL, BAGGAGE_TO(PROPERTY, KEEP), BAGGAGE_FAIL, BAGGAGE_FAIL,
	BAGGAGE_FAIL_WHOLE, BAGGAGE_TO(SEMICOLON, BLANK), BAGGAGE_FAIL, BAGGAGE_FAIL,
	/* PROPERTY */
	BAGGAGE_FAIL, BAGGAGE_TO(PROPERTY, KEEP), BAGGAGE_FAIL, BAGGAGE_TO(EQUALS, KEEP),
	BAGGAGE_TO(BLANK, COMMIT), BAGGAGE_TO(PROPERTY_TAIL, BLANK), BAGGAGE_TO(SEMICOLON, KEEP), BAGGAGE_FAIL,
	/* PROPERTY_TAIL */
	BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_FAIL, BAGGAGE_TO(EQUALS, KEEP),
	BAGGAGE_TO(BLANK, COMMIT), BAGGAGE_TO(PROPERTY_TAIL, BLANK), BAGGAGE_TO(SEMICOLON, KEEP), BAGGAGE_FAIL,
	/* OUT */
	BAGGAGE_TO(OUT, SKIP), BAGGAGE_TO(OUT, SKIP), BAGGAGE_TO(OUT, SKIP), BAGGAGE_TO(OUT, SKIP),
	BAGGAGE_TO(BLANK, SKIP), BAGGAGE_TO(OUT, SKIP), BAGGAGE_TO(OUT, SKIP), BAGGAGE_TO(OUT, SKIP),
};
/* clang-format on */

/* Before the first line; text need not be zeroed. */
WEFT_INLINE void baggage_reset(struct baggage *b)
{
	__builtin_memset(b, 0, __builtin_offsetof(struct baggage, text));
}

/* The hash by which struct baggage_keys knows a key. */
WEFT_INLINE __u64 baggage_hash(__u64 hash, __u32 c)
{
	return (hash ^ c) * BAGGAGE_HASH_PRIME;
}

/*
 * Is the key read one of the list? Straight through: a loop with an exit in the
 * loop over bytes is what a verifier would spend most of its time on.
 */
WEFT_INLINE __u32 baggage_listed(const struct baggage *b, const struct baggage_keys *keys)
{
	__u64 hash = b->hash, count = keys->count;
	__u64 listed = 0;
	__u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < BAGGAGE_KEYS; i++) {
		__u64 differ = keys->hash[i] ^ hash;

		listed |= ~(differ | -differ) & (i - count);
		WEFT_OPAQUE(listed);
	}
	return listed >> 63;
}

/* This member, or all from now on, have no room. */
WEFT_INLINE void baggage_drop(struct baggage *b)
{
	b->dropped++;
	b->full = 1;
	b->state = BAGGAGE_STATE_OUT;
}

/* One byte. */
WEFT_INLINE void baggage_byte(struct baggage *b, __u32 c, const struct baggage_keys *only,
			      const struct baggage_keys *without)
{
	__u32 class = baggage_class[c & 0xff];
	__u64 index = (b->state & 15) << 3 | (class & 7);
	__u32 step, action;
	__u64 at;

	WEFT_OPAQUE(index); /* masked again: verifiers before 6.2 lose the bounds of an OR */
	step = baggage_step_of[index & 127];
	action = step >> 4;
	b->state = step & 15;
	if (action == BAGGAGE_DO_SKIP)
		return;
	if (action == BAGGAGE_DO_FAIL) {
		b->malformed++;
		return;
	}
	if (action == BAGGAGE_DO_COMMIT) {
		b->len = b->end;
		b->count++;
		return;
	}
	if (action == BAGGAGE_DO_FIRST) {
		__u64 behind = b->len;

		if (b->full || b->count >= BAGGAGE_MEMBERS) {
			baggage_drop(b);
			return;
		}
		b->hash = BAGGAGE_HASH_SEED;
		b->pos = behind + (behind > 0);
		WEFT_OPAQUE(behind);
		if (behind < BAGGAGE_MAX)
			b->text[behind] = ','; /* or nothing yet, when pos is 0 */
	}
	if (action <= BAGGAGE_DO_KEY)
		b->hash = baggage_hash(b->hash, c & 0xff);
	if (action == BAGGAGE_DO_EQUALS) {
		b->out = 0;
		if (only && !only->any)
			b->out = !baggage_listed(b, only);
		if (without && without->count)
			b->out |= baggage_listed(b, without);
		if (without && without->any)
			b->out = 1;
		WEFT_FORGET();
		if (b->out) {
			b->filtered++;
			b->state = BAGGAGE_STATE_OUT;
			return;
		}
	}
	WEFT_FORGET();
	at = b->pos;
	WEFT_OPAQUE(at);
	if (at >= BAGGAGE_MAX) {
		/* Blanks out here do no harm unless something follows. */
		if (action != BAGGAGE_DO_BLANK)
			baggage_drop(b);
		return;
	}
	b->text[at] = c;
	b->pos = at + 1;
	if (action != BAGGAGE_DO_BLANK)
		b->end = at + 1;
}

/* Takes the bytes of a value at `at`, up to 8, that are neither blank nor special;
 * returns how many. 8 bytes are readable there. */
WEFT_INLINE __u32 baggage_run(struct baggage *b, const __u8 *at)
{
	__u64 word = weft_load64(at);
	__u64 count =
		weft_prefix(weft_below(word, 0x21) | weft_equal(word, '"') | weft_equal(word, ',') |
			    weft_equal(word, ';') | weft_equal(word, '\\') |
			    weft_equal(word, 0x7f) | (word & WEFT_EACH(0x80)));
	__u64 pos = b->pos;

	WEFT_OPAQUE(pos);
	if (!count || pos > BAGGAGE_MAX - 8)
		return 0;
	weft_store64(b->text + pos, word);
	b->pos = pos + count;
	b->end = pos + count;
	return count;
}

/*
 * The next n bytes of a header line's value, at most BAGGAGE_PIECE; bytes is a memory
 * area of that size for the verifier, but only n are read. A member is carried on if
 * its key belongs to `only` (or that is NULL) and not to `without` (or that is NULL).
 * In BPF, pass pointers that the verifier knows to be one or the other: two that may
 * be NULL are four programs to it. `any` and a count of 0 say the same.
 */
WEFT_INLINE void baggage_feed(struct baggage *b, const __u8 *bytes, __u32 n,
			      const struct baggage_keys *only, const struct baggage_keys *without)
{
	__u32 i;

	b->next = 0;
	b->limit = n < BAGGAGE_PIECE ? n : BAGGAGE_PIECE;
	WEFT_NOUNROLL
	for (i = 0; i < BAGGAGE_PIECE; i++) {
		__u64 at;

		WEFT_FORGET();
		at = b->next;
		WEFT_OPAQUE(at);
		if (WEFT_SWAR && at <= BAGGAGE_PIECE - 8 && at + 8 <= b->limit &&
		    b->state == BAGGAGE_STATE_VALUE)
			b->next = at + baggage_run(b, bytes + at);
		WEFT_FORGET();
		at = b->next;
		WEFT_OPAQUE(at);
		if (at >= BAGGAGE_PIECE || at >= b->limit)
			break;
		b->next = at + 1;
		baggage_byte(b, bytes[at & (BAGGAGE_PIECE - 1)], only, without);
	}
	WEFT_FORGET();
}

/* A header line ended. Several are combined in order, as with a comma between. */
WEFT_INLINE void baggage_line_end(struct baggage *b)
{
	baggage_byte(b, ',', 0, 0); /* no key ends validly here, so none is looked up */
}

/* No more lines. Returns the bytes of text that are carried on; 0 is none. */
WEFT_INLINE __u32 baggage_end(struct baggage *b)
{
	baggage_line_end(b);
	return b->len;
}

WEFT_INLINE void baggage_value_reset(struct baggage_value *v)
{
	__builtin_memset(v, 0, __builtin_offsetof(struct baggage_value, text));
}

/* One byte of a value: as it is, or percent-encoded. */
WEFT_INLINE void baggage_escape_byte(struct baggage_value *v, __u32 c)
{
	__u32 class = baggage_class[c & 0xff];
	__u32 high = c >> 4 & 15, low = c & 15;
	__u32 high_letter = (9 - high) >> 31, low_letter = (9 - low) >> 31;
	__u64 at = v->pos;

	WEFT_OPAQUE(at);
	if (class == BAGGAGE_BYTE_BLANK && !at)
		return;
	if (class && class <= BAGGAGE_BYTE_EQUALS && c != '%') {
		if (at < BAGGAGE_VALUE_MAX) {
			v->text[at] = c;
			v->pos = at + 1;
			v->len = at + 1;
			return;
		}
	} else if (at <= BAGGAGE_VALUE_MAX - 3) {
		WEFT_OPAQUE(high_letter);
		WEFT_OPAQUE(low_letter);
		v->text[at] = '%';
		v->text[at + 1] = '0' + high + 7 * high_letter; /* 7 = 'A' - '0' - 10 */
		v->text[at + 2] = '0' + low + 7 * low_letter;
		v->pos = at + 3;
		if (class != BAGGAGE_BYTE_BLANK)
			v->len = at + 3;
		return;
	}
	/* Blanks out here do no harm unless something follows; then it must not
	 * look as if there had been none. */
	v->pos = BAGGAGE_VALUE_MAX;
	if (class != BAGGAGE_BYTE_BLANK)
		v->over = 1;
}

/*
 * The next n raw bytes of a value, such as another header's, at most BAGGAGE_PIECE;
 * bytes is a memory area of that size for the verifier. What is no baggage-octet, and
 * '%', is percent-encoded; white space around the whole is no part of it. v->over if
 * it does not fit into BAGGAGE_VALUE_MAX bytes.
 */
WEFT_INLINE void baggage_escape(struct baggage_value *v, const __u8 *bytes, __u32 n)
{
	__u32 i;

	v->next = 0;
	WEFT_NOUNROLL
	for (i = 0; i < BAGGAGE_PIECE; i++) {
		WEFT_FORGET();
		if (i >= n)
			break;
		baggage_escape_byte(v, bytes[i]);
	}
	WEFT_FORGET();
}

/*
 * Adds a member behind the others, after baggage_end: key is a token of key_len bytes
 * in an area of BAGGAGE_KEY_MAX, in a map value, and so is value. Returns 1, or 0 if it
 * does not fit (then nothing has changed but the count of the dropped).
 */
WEFT_INLINE int baggage_append(struct baggage *b, const __u8 *key, __u32 key_len,
			       const struct baggage_value *value)
{
	__u64 at = b->len, n = key_len, len = value->len;

	at += at > 0;
	WEFT_OPAQUE(at);
	WEFT_OPAQUE(n);
	WEFT_OPAQUE(len);
	if (!n || n > BAGGAGE_KEY_MAX || len > BAGGAGE_VALUE_MAX || value->over || b->full ||
	    b->count >= BAGGAGE_MEMBERS || at >= BAGGAGE_MAX || at + n + 1 + len > BAGGAGE_MAX) {
		b->dropped++;
		return 0;
	}
	WEFT_COPY(b->text + at, n, key);
	if (at)
		b->text[at - 1] = ',';
	at += n;
	b->text[at] = '=';
	WEFT_COPY(b->text + at + 1, len, value->text);
	b->len = at + 1 + len;
	b->count++;
	return 1;
}
