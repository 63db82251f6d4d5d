package main

// static __thread long room[37];
// long use(void) { room[3] = 7; return room[3]; }
import "C"

func use() { C.use() }
