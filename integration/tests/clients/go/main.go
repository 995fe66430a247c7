// The official Go client against a minik server: what controllers and tools built on client-go do.
//
// Usage: go-client KUBECONFIG [POD]
//
// With a Pod of the built-in image, commands are run in it and its ports are forwarded instead.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "default"
	// How long anything may take to come true.
	deadline = 60 * time.Second
	image    = "minik.dev/echo:1"
)

// What every check has at hand.
type cluster struct {
	context.Context
	*kubernetes.Clientset
	config *rest.Config
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must(err)
	config.QPS, config.Burst = 500, 500
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	c := cluster{ctx, kubernetes.NewForConfigOrDie(config), config}

	checks := []struct {
		name string
		run  func(cluster)
	}{
		{"services: create, get, update, patch, list, watch, delete", services},
		{"pods: status, eviction, collections", pods},
		{"typed apply and its conflicts", apply},
		{"protobuf bodies", protobuf},
		{"field validation and warnings", fieldValidation},
		{"pages", pages},
		{"scale and retries on conflict", scale},
		{"reviews and tokens", reviews},
		{"shared informers: streaming lists, resync", informersSeeChanges},
		{"endpoint slices follow Services and Pods", slicesFollow},
		{"a reflector behind the kept history lists again", reflectorAfter410},
		{"leader election over a Lease", leaderElection},
		{"events are recorded and counted", recordEvents},
		{"discovery, mapping and dynamic clients", discoverAndMap},
		{"metadata only", metadataOnly},
	}
	if len(os.Args) > 2 {
		pod := os.Args[2]
		checks = checks[:0]
		add := func(name string, run func(cluster, string)) {
			checks = append(checks, struct {
				name string
				run  func(cluster)
			}{name, func(c cluster) { run(c, pod) }})
		}
		add("commands over WebSocket and SPDY", commands)
		add("forwarded ports over SPDY and WebSocket", forwardedPorts)
		add("logs", logs)
	}
	for _, check := range checks {
		fmt.Println(check.name)
		check.run(c)
	}
	fmt.Println("all done")
}

// Ends the program with what went wrong.
func fail(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1[T any](value T, err error) T {
	must(err)
	return value
}

func equal[T comparable](what string, has, wants T) {
	if has != wants {
		fail("%s: %v instead of %v", what, has, wants)
	}
}

// The error is of the sort that this function of k8s.io/apimachinery/pkg/api/errors tells.
func refused(what string, is func(error) bool, err error) {
	if err == nil || !is(err) {
		fail("%s: %v", what, err)
	}
}

// Polls until a condition holds.
func eventually(what string, condition func() error) {
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = condition(); err == nil {
			return
		}
	}
	fail("%s: not within %v: %v", what, deadline, err)
}

// Waits for the next value.
func next[T any](what string, from <-chan T) T {
	select {
	case value, open := <-from:
		if !open {
			fail("%s: nothing more comes", what)
		}
		return value
	case <-time.After(deadline):
		fail("%s: nothing came", what)
	}
	panic("unreachable")
}

// Lines that are written at one place and looked at in another.
type record struct {
	sync.Mutex
	lines []string
}

func (r *record) add(line string) {
	r.Lock()
	defer r.Unlock()
	r.lines = append(r.lines, line)
}

func (r *record) all() []string {
	r.Lock()
	defer r.Unlock()
	return append([]string(nil), r.lines...)
}

func named(name string, labels ...string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Name: name}
	for at := 0; at+1 < len(labels); at += 2 {
		metav1.SetMetaDataLabel(&meta, labels[at], labels[at+1])
	}
	return meta
}

func ptr[T any](value T) *T { return &value }
