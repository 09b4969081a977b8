// The plain app for net/http/fcgi of Go: responder SOCKET. It is no WSGI server.
package main

import (
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"os"
	"strconv"
	"time"
)

var zeros = make([]byte, 102400)

func answer(w http.ResponseWriter, r *http.Request) {
	length := 14
	switch r.URL.Path {
	case "/body":
		length = 102400
	case "/stream":
		length = 10485760
	case "/upload":
		body, err := io.ReadAll(r.Body)
		if err != nil || int64(len(body)) != r.ContentLength {
			http.Error(w, "the request body is not complete", 400)
			return
		}
	case "/sleep":
		time.Sleep(50 * time.Millisecond)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(length))
	switch r.URL.Path {
	case "/body":
		w.Write(zeros)
	case "/stream":
		for i := 0; i < 160; i++ {
			w.Write(zeros[:65536])
		}
	default:
		io.WriteString(w, "Hello, world!\n")
	}
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		panic(err)
	}
	panic(fcgi.Serve(listener, http.HandlerFunc(answer)))
}
