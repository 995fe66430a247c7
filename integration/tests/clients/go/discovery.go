package main

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
)

func object(fields map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: fields}
}

func definition() *unstructured.Unstructured {
	count := map[string]any{"type": "integer", "minimum": int64(0), "default": int64(1)}
	spec := map[string]any{"type": "object", "properties": map[string]any{"count": count}}
	properties := map[string]any{"spec": spec, "status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}
	return object(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "gophers.go.example.com"},
		"spec": map[string]any{
			"group": "go.example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": "gophers", "singular": "gopher", "kind": "Gopher", "shortNames": []any{"go"}},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": properties}},
			}},
		},
	})
}

func discoverAndMap(c cluster) {
	cached := memory.NewMemCacheClient(c.DiscoveryClient)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	mapping := must1(mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"}))
	equal("resource", mapping.Resource.String(), "apps/v1, Resource=deployments")
	equal("scope", mapping.Scope.Name(), meta.RESTScopeNameNamespace)
	equal("kind", must1(mapper.KindFor(schema.GroupVersionResource{Resource: "endpointslices"})).Kind, "EndpointSlice")
	expander := restmapper.NewShortcutExpander(mapper, cached, nil)
	equal("short", must1(expander.ResourceFor(schema.GroupVersionResource{Resource: "svc"})).Resource, "services")

	// The old form of discovery says what the aggregated one says.
	flat := func(lists []*metav1.APIResourceList) (names []string) {
		for _, list := range lists {
			for _, one := range list.APIResources {
				names = append(names, fmt.Sprint(list.GroupVersion, " ", one.Name, " ", one.Kind, " ", one.Namespaced, " ", one.Verbs, " ", one.ShortNames))
			}
		}
		slices.Sort(names)
		return names
	}
	legacy := discovery.NewDiscoveryClientForConfigOrDie(c.config)
	legacy.UseLegacyDiscovery = true
	_, old, err := legacy.ServerGroupsAndResources()
	must(err)
	_, aggregated, err := c.Discovery().ServerGroupsAndResources()
	must(err)
	if !slices.Equal(flat(old), flat(aggregated)) {
		fail("discovery differs:\n%v\n%v", flat(old), flat(aggregated))
	}
	version := must1(c.Discovery().ServerVersion())
	equal("major", version.Major, "1")
	documents := must1(c.Discovery().OpenAPIV3().Paths())
	if _, found := documents["apis/apps/v1"]; !found {
		fail("no document of apps/v1")
	}
	has := func(wanted string) bool {
		document := must1(c.Discovery().OpenAPISchema())
		for _, one := range document.GetDefinitions().GetAdditionalProperties() {
			if one.GetName() == wanted {
				return len(one.GetValue().GetProperties().GetAdditionalProperties()) > 0
			}
		}
		return false
	}
	equal("OpenAPI of Pods", has("io.k8s.api.core.v1.Pod"), true)

	client := dynamic.NewForConfigOrDie(c.config)
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	must1(definitions.Create(c, definition(), metav1.CreateOptions{}))
	eventually("the definition is established", func() error {
		one := must1(definitions.Get(c, "gophers.go.example.com", metav1.GetOptions{}))
		conditions, _, _ := unstructured.NestedSlice(one.Object, "status", "conditions")
		for _, condition := range conditions {
			if fields := condition.(map[string]any); fields["type"] == "Established" && fields["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("%v", conditions)
	})
	mapper.Reset()
	mapping = must1(mapper.RESTMapping(schema.GroupKind{Group: "go.example.com", Kind: "Gopher"}))
	eventually("OpenAPI has the custom kind", func() error {
		if has("com.example.go.v1.Gopher") {
			return nil
		}
		return fmt.Errorf("not yet")
	})
	gophers := client.Resource(mapping.Resource).Namespace(namespace)

	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil)
	informer := factory.ForResource(mapping.Resource)
	says := make(chan string, 100)
	tell := func(what string) func(any) {
		return func(one any) { says <- what + " " + one.(*unstructured.Unstructured).GetName() }
	}
	must1(informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell("added"), UpdateFunc: func(_, one any) { tell("changed")(one) }, DeleteFunc: tell("deleted"),
	}))
	factory.Start(c.Done())
	factory.WaitForCacheSync(c.Done())

	made := must1(gophers.Create(c, object(map[string]any{
		"apiVersion": "go.example.com/v1", "kind": "Gopher", "metadata": map[string]any{"name": "one"}, "spec": map[string]any{},
	}), metav1.CreateOptions{}))
	count, _, _ := unstructured.NestedInt64(made.Object, "spec", "count")
	equal("default", count, 1)
	equal("told", next("informer", says), "added one")
	must(unstructured.SetNestedField(made.Object, int64(-1), "spec", "count"))
	_, err = gophers.Update(c, made, metav1.UpdateOptions{})
	refused("below the minimum", apierrors.IsInvalid, err)
	must(unstructured.SetNestedField(made.Object, int64(2), "spec", "count"))
	made = must1(gophers.Update(c, made, metav1.UpdateOptions{}))
	equal("generation", made.GetGeneration(), 2)
	equal("told", next("informer", says), "changed one")
	_, err = gophers.Patch(c, "one", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	refused("a strategic patch", apierrors.IsUnsupportedMediaType, err)
	must(unstructured.SetNestedField(made.Object, "x", "status", "phase"))
	made = must1(gophers.UpdateStatus(c, made, metav1.UpdateOptions{}))
	equal("generation", made.GetGeneration(), 2)
	equal("told", next("informer", says), "changed one")
	applied := object(map[string]any{
		"apiVersion": "go.example.com/v1", "kind": "Gopher", "metadata": map[string]any{"name": "one"},
		"spec": map[string]any{"count": int64(3)},
	})
	_, err = gophers.Apply(c, "one", applied, metav1.ApplyOptions{FieldManager: "applier"})
	refused("a conflict", apierrors.IsConflict, err)
	made = must1(gophers.Apply(c, "one", applied, metav1.ApplyOptions{FieldManager: "applier", Force: true}))
	count, _, _ = unstructured.NestedInt64(made.Object, "spec", "count")
	equal("applied", count, 3)
	equal("told", next("informer", says), "changed one")
	must(gophers.Delete(c, "one", metav1.DeleteOptions{}))
	equal("told", next("informer", says), "deleted one")
	must(definitions.Delete(c, "gophers.go.example.com", metav1.DeleteOptions{}))
	eventually("the kind is served no more", func() error {
		_, err := gophers.List(c, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v", err)
	})
}

func metadataOnly(c cluster) {
	maps := c.CoreV1().ConfigMaps(namespace)
	must1(maps.Create(c, &corev1.ConfigMap{ObjectMeta: named("meta", "a", "b"), Data: map[string]string{"x": "y"}}, metav1.CreateOptions{}))
	client := metadata.NewForConfigOrDie(c.config).Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	one := must1(client.Get(c, "meta", metav1.GetOptions{}))
	equal("label", one.Labels["a"], "b")
	watching := must1(client.Watch(c, metav1.ListOptions{ResourceVersion: one.ResourceVersion, LabelSelector: "a=b"}))
	defer watching.Stop()
	patched := must1(client.Patch(c, "meta", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b","c":"d"}}}`), metav1.PatchOptions{}))
	equal("label", patched.Labels["c"], "d")
	equal("watched", next("watch", watching.ResultChan()).Object.(*metav1.PartialObjectMetadata).Labels["c"], "d")
	equal("listed", len(must1(client.List(c, metav1.ListOptions{LabelSelector: "a=b"})).Items), 1)
	must(client.Delete(c, "meta", metav1.DeleteOptions{}))
}
