package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// Where the size of a terminal comes from.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, open := <-s
	if !open {
		return nil
	}
	return &size
}

func commands(c cluster, pod string) {
	ways := map[string]func(options *corev1.PodExecOptions) remotecommand.Executor{
		"WebSocket": func(options *corev1.PodExecOptions) remotecommand.Executor {
			request := c.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec")
			return must1(remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, request.VersionedParams(options, scheme.ParameterCodec).URL().String()))
		},
		"SPDY": func(options *corev1.PodExecOptions) remotecommand.Executor {
			request := c.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec")
			return must1(remotecommand.NewSPDYExecutor(c.config, http.MethodPost, request.VersionedParams(options, scheme.ParameterCodec).URL()))
		},
	}
	for way, executor := range ways {
		var out, errs bytes.Buffer
		fetch := executor(&corev1.PodExecOptions{Command: []string{"/minik", "fetch", "http://localhost:9376/"}, Stdout: true, Stderr: true})
		must(fetch.StreamWithContext(c, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}))
		if !strings.Contains(out.String(), pod) {
			fail("%s: %q %q", way, out.String(), errs.String())
		}

		out.Reset()
		wrong := executor(&corev1.PodExecOptions{Command: []string{"/minik", "nonsense"}, Stdout: true, Stderr: true})
		err := wrong.StreamWithContext(c, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
		var exit utilexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 2 || !strings.Contains(errs.String(), "nonsense") {
			fail("%s: %v %q", way, err, errs.String())
		}

		// A line in and the same line out, then the end of what comes in.
		lines := executor(&corev1.PodExecOptions{Command: []string{"/minik", "fetch", "--lines", "tcp://localhost:9377"}, Stdin: true, Stdout: true, Stderr: true})
		reader, writer := io.Pipe()
		answers, answered := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			err := lines.StreamWithContext(c, remotecommand.StreamOptions{Stdin: reader, Stdout: answered, Stderr: &errs})
			answered.Close()
			ended <- err
		}()
		must1(fmt.Fprintln(writer, "hello"))
		scanner := bufio.NewScanner(answers)
		if !scanner.Scan() || !strings.Contains(scanner.Text(), "hello") {
			fail("%s: %q", way, scanner.Text())
		}
		must(writer.Close())
		must(next(way+" ends", ended))

		// A terminal: one stream out, sizes in; what is left ends with the context.
		terminal := executor(&corev1.PodExecOptions{Command: []string{"/minik", "fetch", "--lines", "tcp://localhost:9377"}, Stdin: true, Stdout: true, TTY: true})
		size := make(sizes, 1)
		size <- remotecommand.TerminalSize{Width: 80, Height: 24}
		reader, writer = io.Pipe()
		answers, answered = io.Pipe()
		ctx, stop := context.WithCancel(c)
		go func() {
			ended <- terminal.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: reader, Stdout: answered, Tty: true, TerminalSizeQueue: size})
		}()
		must1(fmt.Fprintln(writer, "hello"))
		scanner = bufio.NewScanner(answers)
		for seen := 0; seen < 2; { // The terminal's echo, and the answer.
			if !scanner.Scan() {
				fail("%s: the terminal ended", way)
			}
			if strings.Contains(scanner.Text(), "hello") {
				seen++
			}
		}
		stop()
		answers.Close()
		close(size)
		if err := next(way+" is cancelled", ended); !errors.Is(err, context.Canceled) {
			fail("%s: %v", way, err)
		}

		missing := executor(&corev1.PodExecOptions{Container: "missing", Command: []string{"/minik"}, Stdout: true})
		if err := missing.StreamWithContext(c, remotecommand.StreamOptions{Stdout: &out}); err == nil || !strings.Contains(err.Error(), "missing") {
			fail("%s: %v", way, err)
		}
	}
}

func forwardedPorts(c cluster, pod string) {
	url := c.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	must(err)
	dialers := map[string]httpstream.Dialer{
		"SPDY":      spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url),
		"WebSocket": must1(portforward.NewSPDYOverWebsocketDialer(url, c.config)),
	}
	for way, dialer := range dialers {
		forward := func(port string) (local uint16, stop chan struct{}, ended chan error) {
			ready := make(chan struct{})
			stop, ended = make(chan struct{}), make(chan error, 1)
			forwarder := must1(portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, io.Discard))
			go func() { ended <- forwarder.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				fail("%s: %v", way, err)
			}
			return must1(forwarder.GetPorts())[0].Local, stop, ended
		}
		get := func(port uint16) (string, error) {
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if err != nil {
				return "", err
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			return string(body), err
		}
		local, stop, ended := forward("9376")
		for range 5 {
			if text := must1(get(local)); !strings.Contains(text, pod) {
				fail("%s: %q", way, text)
			}
		}
		close(stop)
		must(next(way+" ends", ended))
		// Nothing listens there: the client gives up when it is told so.
		local, _, ended = forward("1")
		if text, err := get(local); err == nil {
			fail("%s: %q", way, text)
		}
		if err := next(way+" fails", ended); !errors.Is(err, portforward.ErrLostConnectionToPod) {
			fail("%s: %v", way, err)
		}
	}
}

func logs(c cluster, pod string) {
	pods := c.CoreV1().Pods(namespace)
	text := string(must1(pods.GetLogs(pod, &corev1.PodLogOptions{}).Do(c).Raw()))
	if !strings.Contains(text, "listening") {
		fail("the log: %q", text)
	}
	follow := must1(pods.GetLogs(pod, &corev1.PodLogOptions{Follow: true, Timestamps: true, TailLines: ptr(int64(1))}).Stream(c))
	defer follow.Close()
	line := must1(bufio.NewReader(follow).ReadString('\n'))
	if !strings.HasPrefix(line, "20") {
		fail("a line with its time: %q", line)
	}
}
