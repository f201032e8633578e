module header

go 1.24
