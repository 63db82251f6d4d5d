/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Reads tracestate lines: the grammar, and the members in memory. tracestate.h has
 * the whole.
 */
#pragma once

#include "portable.h"

#define TRACESTATE_MEMBERS 32	 /* over that it is discarded */
#define TRACESTATE_MAX 1024	 /* bytes carried on; W3C wants at least 512 */
#define TRACESTATE_LONG 128	 /* members over that go first when it is cut */
#define TRACESTATE_KEY_MAX 256	 /* bytes of a key, and of a value */
#define TRACESTATE_PIECE 64	 /* bytes of a line fed at a time, at most */
#define TRACESTATE_BUFFER 2048	 /* of the memory that tracestate_write fills */
#define TRACESTATE_OT_OTHERS 220 /* bytes of ot's sub-keys besides th and rv when it is rewritten */

/*
 * All 32 members of at most TRACESTATE_LONG bytes with their commas, such longer
 * ones as fit into TRACESTATE_MAX, one being read (256 + 1 + 256 bytes), and 7
 * for stores of eight bytes; rounded up.
 */
#define TRACESTATE_TEXT 5696

/* What became of it. Values other than OK: there is no member. */
enum tracestate_result {
	TRACESTATE_OK = 0,
	TRACESTATE_EMPTY = 1, /* no line, or nothing but white space and commas */
	TRACESTATE_KEY = 2,   /* a key empty, over 256 bytes, or with another byte */
	TRACESTATE_VALUE = 3, /* a value empty, over 256 bytes, or with another byte */
	TRACESTATE_FORM = 4,  /* a member without '=' */
	TRACESTATE_TOO_MANY = 5,
};

/* What tracestate_write makes of the ot member. */
enum tracestate_mode {
	TRACESTATE_KEEP = 0,  /* leave it as and where it is */
	TRACESTATE_SET = 1,   /* write th, in front of the list */
	TRACESTATE_ERASE = 2, /* take th out; what is left of ot then moves to the front */
};

/* Sampling by OpenTelemetry. Malformed counts as absent; of two the first counts. */
struct ot {
	__u64 threshold; /* th, 56 bits: sampled if randomness >= threshold */
	__u64 random;	 /* rv, 56 bits: replaces the trace-id's last 7 bytes */
	__u8 has_threshold;
	__u8 has_random;
	__u8 pad[6];
};

struct tracestate_member {
	__u16 at; /* in text */
	__u16 len;
};

/* All zero up to `member` is "nothing read"; what lies behind need not be. */
struct tracestate {
	struct ot ot;	  /* from tracestate_end on */
	__u64 number[2];  /* what th and rv say, as far as the digits go */
	__u64 value;	  /* the same of a sub-key being read */
	__u32 kept;	  /* members that are written, one bit each */
	__u32 ots;	  /* members whose key is ot, likewise */
	__u32 name;	  /* a sub-key's first three bytes */
	__u16 len;	  /* bytes of text that hold whole members */
	__u16 at;	  /* where the member being read begins */
	__u16 pos;	  /* where its next byte goes */
	__u16 end;	  /* behind its value's last byte but blanks; 0 without value */
	__u16 run;	  /* bytes of its key or value so far */
	__u16 longs;	  /* bytes of the longer members, each with a comma */
	__u16 next;	  /* loops: where they stand and end */
	__u16 limit;
	__u16 from, to;	  /* a stretch of text to be copied */
	__u16 out;	  /* bytes written, each member with a comma */
	__u16 total;	  /* bytes kept, likewise */
	__u16 others_len; /* bytes of whole sub-keys in others */
	__u16 others_pos;
	__u16 others_end; /* behind a sub-key's last byte but blanks; 0 before that */
	__u16 sub;	  /* bytes of a sub-key */
	__u8 state;
	__u8 result;	  /* enum tracestate_result */
	__u8 seen;	  /* members that came */
	__u8 count;	  /* members in text */
	__u8 left;	  /* members kept */
	__u8 long_full;	  /* no further longer member can be kept */
	__u8 bad;	  /* a sub-key's value is not hexadecimal */
	__u8 others_full;
	__u8 digits[2];	  /* of th and rv and 1 more, 255 if they are none; 0 before they come */
	__u8 written;	  /* digits of th as written */
	__u8 pad[1];
	struct tracestate_member member[TRACESTATE_MEMBERS];
	__u8 others[256]; /* ot's sub-keys besides th and rv, ';' between */
	__u8 text[TRACESTATE_TEXT];
};

_Static_assert(sizeof(struct ot) == 24, "ot");
_Static_assert(__builtin_offsetof(struct tracestate, member) == 104, "tracestate state");
_Static_assert(sizeof(struct tracestate) == 104 + 128 + 256 + TRACESTATE_TEXT, "tracestate");
_Static_assert(TRACESTATE_TEXT >= TRACESTATE_MEMBERS * (TRACESTATE_LONG + 1) + TRACESTATE_MAX + 1 +
					  2 * TRACESTATE_KEY_MAX + 1 + 7,
	       "text holds all that can be kept and one member more");
_Static_assert(2 * TRACESTATE_KEY_MAX + 1 <= TRACESTATE_MAX, "one member is always kept");
/* th and rv with their digits, and a ';' behind each. */
_Static_assert(TRACESTATE_OT_OTHERS + 2 * (3 + 14 + 1) <= TRACESTATE_KEY_MAX, "ot is a value");

/* Bytes, as the grammar tells them apart. */
enum {
	TRACESTATE_BYTE_OTHER = 0,
	TRACESTATE_BYTE_FIRST = 1,  /* a-z 0-9: begins a key */
	TRACESTATE_BYTE_IN_KEY = 2, /* _ - * / @ */
	TRACESTATE_BYTE_EQUALS = 3,
	TRACESTATE_BYTE_COMMA = 4,
	TRACESTATE_BYTE_SPACE = 5,
	TRACESTATE_BYTE_TAB = 6,
	TRACESTATE_BYTE_IN_VALUE = 7, /* visible, but in no key */
};

enum {
	TRACESTATE_STATE_BLANK = 0, /* before a member */
	TRACESTATE_STATE_KEY = 1,
	TRACESTATE_STATE_VALUE = 2,
	TRACESTATE_STATE_TAIL = 3, /* a tab after the value: nothing but white space */
};

enum {
	TRACESTATE_DO_SKIP = 0,
	TRACESTATE_DO_FIRST = 1,
	TRACESTATE_DO_KEY = 2,
	TRACESTATE_DO_EQUALS = 3,
	TRACESTATE_DO_VALUE = 4,
	TRACESTATE_DO_SPACE = 5,
	TRACESTATE_DO_COMMIT = 6,
	TRACESTATE_DO_FAIL = 7,
};

/* clang-format off */
static const __u8 tracestate_class[256] = { /* 16 a row; none above 0x7e */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2, 7, 4, 2, 7, 2,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7, 7, 7, 3, 7, 7,
	2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 2,
	7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
	1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7, 7, 7, 7, 0,
};
/* clang-format on */

/* The next state, and what to do with the byte; failing, the result instead. */
#define TRACESTATE_TO(state, action) (TRACESTATE_STATE_##state | TRACESTATE_DO_##action << 4)
#define TRACESTATE_NOT(result) (TRACESTATE_##result | TRACESTATE_DO_FAIL << 4)

/* By state, then class in the order of their numbers. (Twice the size needed: clang
 * puts constants of 32 bytes into a section that no loader expects.) */
/* clang-format off */
static const __u8 tracestate_step_of[8 * 8] = {
	/* BLANK */
	TRACESTATE_NOT(KEY), TRACESTATE_TO(KEY, FIRST), TRACESTATE_NOT(KEY), TRACESTATE_NOT(KEY),
	TRACESTATE_TO(BLANK, SKIP), TRACESTATE_TO(BLANK, SKIP), TRACESTATE_TO(BLANK, SKIP), TRACESTATE_NOT(KEY),
	/* KEY */
	TRACESTATE_NOT(KEY), TRACESTATE_TO(KEY, KEY), TRACESTATE_TO(KEY, KEY), TRACESTATE_TO(VALUE, EQUALS),
	TRACESTATE_NOT(FORM), TRACESTATE_NOT(KEY), TRACESTATE_NOT(KEY), TRACESTATE_NOT(KEY),
	/* VALUE */
	TRACESTATE_NOT(VALUE), TRACESTATE_TO(VALUE, VALUE), TRACESTATE_TO(VALUE, VALUE), TRACESTATE_NOT(VALUE),
	TRACESTATE_TO(BLANK, COMMIT), TRACESTATE_TO(VALUE, SPACE), TRACESTATE_TO(TAIL, SKIP), TRACESTATE_TO(VALUE, VALUE),
	/* TAIL */
	TRACESTATE_NOT(VALUE), TRACESTATE_NOT(VALUE), TRACESTATE_NOT(VALUE), TRACESTATE_NOT(VALUE),
	TRACESTATE_TO(BLANK, COMMIT), TRACESTATE_TO(TAIL, SKIP), TRACESTATE_TO(TAIL, SKIP), TRACESTATE_NOT(VALUE),
};
/* clang-format on */

/* Before the first line; text need not be zeroed. */
WEFT_INLINE void tracestate_reset(struct tracestate *t)
{
	__builtin_memset(t, 0, __builtin_offsetof(struct tracestate, member));
}

WEFT_INLINE __u32 tracestate_text(const struct tracestate *t, __u64 at)
{
	WEFT_OPAQUE(at);
	return at < TRACESTATE_TEXT ? t->text[at] : 0;
}

/* The member is complete: it becomes one of text, or can never be kept. */
WEFT_INLINE void tracestate_commit(struct tracestate *t)
{
	__u32 len = (t->end - t->at) & 0xffff;
	__u64 index = t->count;

	if (!t->end) {
		t->result = TRACESTATE_VALUE;
		return;
	}
	if (len > TRACESTATE_LONG) {
		/* Longer ones are dropped from the last on; this one is dropped
		 * even if all the others are gone, and so are those behind it. */
		if (t->long_full || t->longs + len > TRACESTATE_MAX) {
			t->long_full = 1;
			return;
		}
		t->longs += len + 1;
	}
	index &= TRACESTATE_MEMBERS - 1;
	t->member[index].at = t->at;
	t->member[index].len = len;
	t->count++;
	t->len = t->end;
}

/* One byte. */
WEFT_INLINE void tracestate_byte(struct tracestate *t, __u32 c)
{
	__u32 class = tracestate_class[c & 0xff];
	__u64 index = (t->state & 7) << 3 | (class & 7);
	__u32 step, action;
	__u64 at;

	WEFT_OPAQUE(index); /* masked again: verifiers before 6.2 lose the bounds of an OR */
	step = tracestate_step_of[index & 63];
	action = step >> 4;

	if (action == TRACESTATE_DO_FAIL) {
		t->result = step & 15;
		return;
	}
	t->state = step & 15;
	if (action == TRACESTATE_DO_SKIP)
		return;
	if (action == TRACESTATE_DO_COMMIT) {
		tracestate_commit(t);
		return;
	}
	if (action == TRACESTATE_DO_FIRST) {
		__u64 behind = t->len;

		if (t->seen >= TRACESTATE_MEMBERS) {
			t->result = TRACESTATE_TOO_MANY;
			return;
		}
		t->seen++;
		t->run = 0;
		t->end = 0;
		t->at = behind + (behind > 0);
		t->pos = t->at;
		WEFT_OPAQUE(behind);
		if (behind < TRACESTATE_TEXT)
			t->text[behind] = ','; /* or nothing yet, when at is 0 */
	}
	if (action == TRACESTATE_DO_EQUALS) {
		t->run = 0;
	} else {
		if (t->run >= TRACESTATE_KEY_MAX) {
			/* Blanks so far behind are either no part of the value, or
			 * what follows them makes it too long. */
			if (action == TRACESTATE_DO_KEY)
				t->result = TRACESTATE_KEY;
			if (action == TRACESTATE_DO_VALUE)
				t->result = TRACESTATE_VALUE;
			return;
		}
		t->run++;
	}
	WEFT_FORGET();
	at = t->pos;
	t->pos = at + 1;
	if (action == TRACESTATE_DO_VALUE)
		t->end = at + 1;
	WEFT_OPAQUE(at);
	if (at < TRACESTATE_TEXT)
		t->text[at] = c;
}

/* Takes the bytes of a value at `at`, up to 8, that are neither blank nor special;
 * returns how many. 8 bytes are readable there. */
WEFT_INLINE __u32 tracestate_run(struct tracestate *t, const __u8 *at)
{
	__u64 word = weft_load64(at);
	__u64 count =
		weft_prefix(weft_below(word, 0x21) | weft_equal(word, ',') | weft_equal(word, '=') |
			    weft_equal(word, 0x7f) | (word & WEFT_EACH(0x80)));
	__u64 pos = t->pos;

	if (!count || t->run > TRACESTATE_KEY_MAX - 8)
		return 0;
	t->run += count;
	t->pos = pos + count;
	t->end = pos + count;
	WEFT_OPAQUE(pos);
	if (pos <= TRACESTATE_TEXT - 8)
		weft_store64(t->text + pos, word);
	return count;
}

/*
 * The next n bytes of a header line's value, at most TRACESTATE_PIECE; bytes is a
 * memory area of that size for the verifier, but only n are read.
 */
WEFT_INLINE void tracestate_feed(struct tracestate *t, const __u8 *bytes, __u32 n)
{
	__u32 i;

	t->next = 0;
	t->limit = n < TRACESTATE_PIECE ? n : TRACESTATE_PIECE;
	WEFT_NOUNROLL
	for (i = 0; i < TRACESTATE_PIECE; i++) {
		__u64 at;

		WEFT_FORGET();
		if (t->result)
			break;
		at = t->next;
		WEFT_OPAQUE(at);
		if (WEFT_SWAR && at <= TRACESTATE_PIECE - 8 && at + 8 <= t->limit &&
		    t->state == TRACESTATE_STATE_VALUE)
			t->next = at + tracestate_run(t, bytes + at);
		WEFT_FORGET();
		at = t->next;
		WEFT_OPAQUE(at);
		if (at >= TRACESTATE_PIECE || at >= t->limit)
			break;
		t->next = at + 1;
		tracestate_byte(t, bytes[at & (TRACESTATE_PIECE - 1)]);
	}
	WEFT_FORGET();
}

/* A header line ended. Several are combined in order, as with a comma between. */
WEFT_INLINE void tracestate_line_end(struct tracestate *t)
{
	if (!t->result)
		tracestate_byte(t, ',');
}
