module example.com/thread

go 1.19
