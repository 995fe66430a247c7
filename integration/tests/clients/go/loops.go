package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	eventrecord "k8s.io/client-go/tools/record"
	toolswatch "k8s.io/client-go/tools/watch"
)

// Looks at every request, and may change it and its answer.
type seen struct {
	inner  http.RoundTripper
	before func(*http.Request)
	after  func(*http.Response)
}

func (s *seen) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	s.before(request)
	answer, err := s.inner.RoundTrip(request)
	if err == nil && s.after != nil {
		s.after(answer)
	}
	return answer, err
}

func watched(config *rest.Config, before func(*http.Request), after func(*http.Response)) *kubernetes.Clientset {
	config = rest.CopyConfig(config)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper { return &seen{inner, before, after} })
	return kubernetes.NewForConfigOrDie(config)
}

func informersSeeChanges(c cluster) {
	var lists, streams atomic.Int32
	client := watched(c.config, func(request *http.Request) {
		query := request.URL.Query()
		switch {
		case query.Get("sendInitialEvents") == "true":
			streams.Add(1)
		case query.Get("watch") == "":
			lists.Add(1)
		}
	}, nil)
	ctx, stop := context.WithCancel(c)
	defer stop()
	maps := c.CoreV1().ConfigMaps(namespace)
	for at := range 3 {
		must1(maps.Create(c, &corev1.ConfigMap{ObjectMeta: named(fmt.Sprintf("informed-%d", at))}, metav1.CreateOptions{}))
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, time.Second, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps()
	added, resynced, changed, gone := make(chan string, 1000), make(chan string, 1000), make(chan string, 1000), make(chan string, 1000)
	handler := must1(informer.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(one any, initial bool) { added <- fmt.Sprint(one.(*corev1.ConfigMap).Name, " ", initial) },
		UpdateFunc: func(before, after any) {
			one := after.(*corev1.ConfigMap)
			if before.(*corev1.ConfigMap).ResourceVersion == one.ResourceVersion {
				resynced <- one.Name
			} else {
				changed <- one.Name + " " + one.Data["a"]
			}
		},
		DeleteFunc: func(one any) { gone <- one.(*corev1.ConfigMap).Name },
	}))
	factory.Start(ctx.Done())
	for of, synced := range factory.WaitForCacheSync(ctx.Done()) {
		equal(of.String(), synced, true)
	}
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		fail("the handler has not synced")
	}
	equal("lists", lists.Load(), 0)
	equal("streams", streams.Load(), 1)
	until := func(what string, from <-chan string, wanted string) {
		for next(what, from) != wanted {
		}
	}
	until("initial", added, "informed-2 true")
	equal("listed", len(must1(informer.Lister().ConfigMaps(namespace).Get("informed-1")).UID) > 0, true)
	until("resync", resynced, "informed-0")
	must1(maps.Create(c, &corev1.ConfigMap{ObjectMeta: named("informed-3")}, metav1.CreateOptions{}))
	until("added", added, "informed-3 false")
	must1(maps.Patch(c, "informed-3", types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{}))
	until("changed", changed, "informed-3 b")
	for at := range 4 {
		must(maps.Delete(c, fmt.Sprintf("informed-%d", at), metav1.DeleteOptions{}))
	}
	until("gone", gone, "informed-3")
	stop()
	factory.Shutdown()
}

func slicesFollow(c cluster) {
	ctx, stop := context.WithCancel(c)
	defer stop()
	factory := informers.NewSharedInformerFactory(c.Clientset, 0)
	informer := factory.Discovery().V1().EndpointSlices()
	says := make(chan string, 1000)
	tell := func(object any) {
		slice := object.(*discoveryv1.EndpointSlice)
		if slice.Labels[discoveryv1.LabelServiceName] != "sliced" {
			return
		}
		text := ""
		for _, endpoint := range slice.Endpoints {
			text += fmt.Sprintf("%s ready=%v port=%d ", endpoint.Addresses[0], *endpoint.Conditions.Ready, *slice.Ports[0].Port)
		}
		says <- text
	}
	must1(informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, after any) { tell(after) }, DeleteFunc: func(any) { says <- "gone" },
	}))
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	until := func(wanted string) {
		for {
			if text := next(wanted, says); text == wanted {
				return
			}
		}
	}

	services, pods := c.CoreV1().Services(namespace), c.CoreV1().Pods(namespace)
	must1(services.Create(c, service("sliced"), metav1.CreateOptions{}))
	until("")
	must1(c.CoreV1().Nodes().Create(c, &corev1.Node{ObjectMeta: named("sliced")}, metav1.CreateOptions{}))
	one := pod("sliced")
	one.Spec.NodeName = "sliced"
	must1(pods.Create(c, one, metav1.CreateOptions{}))
	report(c, "sliced", corev1.ConditionFalse)
	until("10.244.9.9 ready=false port=8080 ")
	report(c, "sliced", corev1.ConditionTrue)
	until("10.244.9.9 ready=true port=8080 ")
	eventually("Endpoints, for clients of old", func() error {
		endpoints := must1(c.CoreV1().Endpoints(namespace).Get(c, "sliced", metav1.GetOptions{}))
		if len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != 1 || endpoints.Subsets[0].Addresses[0].IP != "10.244.9.9" {
			return fmt.Errorf("%+v", endpoints.Subsets)
		}
		return nil
	})

	changed := must1(services.Get(c, "sliced", metav1.GetOptions{}))
	changed.Spec.Ports[0].TargetPort = intstr.FromInt32(9090)
	must1(services.Update(c, changed, metav1.UpdateOptions{}))
	until("10.244.9.9 ready=true port=9090 ")
	must(pods.Delete(c, "sliced", *metav1.NewDeleteOptions(0)))
	until("")
	must(c.CoreV1().Nodes().Delete(c, "sliced", metav1.DeleteOptions{}))
	must(services.Delete(c, "sliced", metav1.DeleteOptions{}))
	until("gone")
	stop()
	factory.Shutdown()
}

// A body of an answer that can be made to end as when the server ends it.
type cuttable struct {
	io.ReadCloser
	cut atomic.Bool
}

func (c *cuttable) Read(into []byte) (int, error) {
	size, err := c.ReadCloser.Read(into)
	if err != nil && c.cut.Load() {
		err = io.EOF
	}
	return size, err
}

// A watch goes on at a revision whose history is gone, as after a long time without a connection: the server has been started
// again since, and it keeps history in memory.
func reflectorAfter410(c cluster) {
	const old = "1"
	maps := c.CoreV1().ConfigMaps(namespace)
	watching, err := maps.Watch(c, metav1.ListOptions{ResourceVersion: old})
	if err == nil {
		// A watch that has begun tells it as an event.
		err = apierrors.FromObject(next("an error", watching.ResultChan()).Object)
		watching.Stop()
	}
	refused("an old revision", apierrors.IsResourceExpired, err)
	must1(maps.Create(c, &corev1.ConfigMap{ObjectMeta: named("reflected")}, metav1.CreateOptions{}))

	for _, streaming := range []bool{true, false} {
		var lists, expired atomic.Int32
		var rewind atomic.Bool
		var current atomic.Pointer[cuttable]
		client := watched(c.config, func(request *http.Request) {
			query := request.URL.Query()
			switch {
			case query.Get("watch") == "" || query.Get("sendInitialEvents") == "true":
				lists.Add(1)
			case rewind.CompareAndSwap(true, false):
				query.Set("resourceVersion", old)
				request.URL.RawQuery = query.Encode()
				expired.Add(1)
			}
		}, func(answer *http.Response) {
			if answer.Request.URL.Query().Get("watch") != "" {
				body := &cuttable{ReadCloser: answer.Body}
				answer.Body = body
				current.Store(body)
			}
		})
		list := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", namespace,
			func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=reflected" })
		var source cache.ListerWatcher = list
		if !streaming {
			source = plain{list}
		}
		store := cache.NewStore(cache.MetaNamespaceKeyFunc)
		reflector := cache.NewReflectorWithOptions(source, &corev1.ConfigMap{}, store, cache.ReflectorOptions{})
		ctx, stop := context.WithCancel(c)
		go reflector.RunWithContext(ctx)
		has := func(label string) {
			eventually("the reflector has "+label, func() error {
				object, found, _ := store.GetByKey(namespace + "/reflected")
				if !found || object.(*corev1.ConfigMap).Labels["at"] != label {
					return fmt.Errorf("%v", object)
				}
				return nil
			})
		}
		change := func(label string) {
			must1(maps.Patch(c, "reflected", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"at":"%s"}}}`, label), metav1.PatchOptions{}))
			has(label)
		}
		change(fmt.Sprint("before-", streaming))
		equal("lists", lists.Load(), 1)
		rewind.Store(true)
		connection := current.Load()
		connection.cut.Store(true)
		must(connection.Close())
		eventually("it lists again", func() error {
			if expired.Load() == 0 || lists.Load() < 2 {
				return fmt.Errorf("%d watches behind, %d lists", expired.Load(), lists.Load())
			}
			return nil
		})
		change(fmt.Sprint("after-", streaming))
		stop()
	}
	must(maps.Delete(c, "reflected", metav1.DeleteOptions{}))
}

// A source whose lists are lists.
type plain struct{ *cache.ListWatch }

func (plain) IsWatchListSemanticsUnSupported() bool { return true }

func leaderElection(c cluster) {
	says := &record{}
	candidate := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(c)
		ended := make(chan struct{})
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: "leader"}, Client: c.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		elector := must1(leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 200 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { says.add(name + " leads") },
				OnStoppedLeading: func() { says.add(name + " stops") },
				OnNewLeader:      func(leader string) { says.add(name + " sees " + leader) },
			},
		}))
		go func() { elector.Run(ctx); close(ended) }()
		return func() { cancel(); <-ended }
	}
	said := func(line string) {
		eventually(line, func() error {
			all := fmt.Sprintf("%q", says.all())
			if strings.Contains(all, fmt.Sprintf("%q", line)) {
				return nil
			}
			return errors.New(all)
		})
	}
	stopA := candidate("a")
	said("a leads")
	stopB := candidate("b")
	said("b sees a")
	leases := c.CoordinationV1().Leases(namespace)
	first := must1(leases.Get(c, "leader", metav1.GetOptions{}))
	eventually("the Lease is renewed", func() error {
		if now := must1(leases.Get(c, "leader", metav1.GetOptions{})); !now.Spec.RenewTime.After(first.Spec.RenewTime.Time) {
			return fmt.Errorf("%v", now.Spec.RenewTime)
		}
		return nil
	})
	stopA()
	said("b leads")
	now := must1(leases.Get(c, "leader", metav1.GetOptions{}))
	equal("holder", *now.Spec.HolderIdentity, "b")
	if *now.Spec.LeaseTransitions <= *first.Spec.LeaseTransitions {
		fail("transitions: %d", *now.Spec.LeaseTransitions)
	}
	stopB()
	must(leases.Delete(c, "leader", metav1.DeleteOptions{}))
}

func recordEvents(c cluster) {
	about := must1(c.CoreV1().ConfigMaps(namespace).Create(c, &corev1.ConfigMap{ObjectMeta: named("about")}, metav1.CreateOptions{}))
	old := eventrecord.NewBroadcaster()
	old.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.CoreV1().Events(namespace)})
	recorder := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "go"})
	for range 3 {
		recorder.Eventf(about, corev1.EventTypeNormal, "Again", "the %s time", "same")
	}
	eventually("the event is counted", func() error {
		list := must1(c.CoreV1().Events(namespace).SearchWithContext(c, scheme.Scheme, about))
		if len(list.Items) != 1 || list.Items[0].Count != 3 || list.Items[0].Source.Component != "go" {
			return fmt.Errorf("%+v", list.Items)
		}
		return nil
	})
	old.Shutdown()

	ctx, stop := context.WithCancel(c)
	defer stop()
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.EventsV1()})
	must(broadcaster.StartRecordingToSinkWithContext(ctx))
	recorded := broadcaster.NewRecorder(scheme.Scheme, "example.com/go")
	for range 2 {
		recorded.Eventf(about, nil, corev1.EventTypeWarning, "Series", "Testing", "a %s", "note")
	}
	eventually("the event has a series", func() error {
		list := must1(c.EventsV1().Events(namespace).List(c, metav1.ListOptions{FieldSelector: "reason=Series"}))
		if len(list.Items) != 1 || list.Items[0].Series == nil || list.Items[0].Series.Count != 2 {
			return fmt.Errorf("%+v", list.Items)
		}
		one := list.Items[0]
		equal("note", one.Note, "a note")
		equal("controller", one.ReportingController, "example.com/go")
		return nil
	})
	broadcaster.Shutdown()
	must(c.CoreV1().ConfigMaps(namespace).Delete(c, "about", metav1.DeleteOptions{}))

	// Waiting for one condition, as commands do.
	list := cache.NewListWatchFromClient(c.CoreV1().RESTClient(), "events", namespace, fields.OneTermEqualSelector("reason", "Again"))
	event := must1(toolswatch.UntilWithSync(c, list, &corev1.Event{}, nil, func(event watch.Event) (bool, error) {
		return bytes.Contains([]byte(event.Object.(*corev1.Event).Message), []byte("same")), nil
	}))
	equal("event", event.Type, watch.Added)
}
