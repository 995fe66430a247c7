package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: named(name, "by", "go"),
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}},
		},
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: named(name, "app", name),
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Image: image, Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}},
			}},
			TerminationGracePeriodSeconds: ptr(int64(0)),
		},
	}
}

func services(c cluster) {
	services := c.CoreV1().Services(namespace)
	list := must1(services.List(c, metav1.ListOptions{LabelSelector: "by=go"}))
	watching := must1(services.Watch(c, metav1.ListOptions{
		LabelSelector: "by=go", ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true,
	}))
	defer watching.Stop()

	made := must1(services.Create(c, service("crud"), metav1.CreateOptions{}))
	if made.Spec.ClusterIP == "" || made.Spec.SessionAffinity != corev1.ServiceAffinityNone {
		fail("defaults and address: %+v", made.Spec)
	}
	equal("target port", made.Spec.Ports[0].TargetPort, intstr.FromString("web"))
	_, err := services.Create(c, service("crud"), metav1.CreateOptions{})
	refused("a name twice", apierrors.IsAlreadyExists, err)
	read := must1(services.Get(c, "crud", metav1.GetOptions{}))
	equal("what is read", read.UID, made.UID)

	read.Spec.Type = corev1.ServiceTypeNodePort
	updated := must1(services.Update(c, read, metav1.UpdateOptions{}))
	if updated.Spec.Ports[0].NodePort < 30000 {
		fail("node port: %+v", updated.Spec.Ports)
	}
	_, err = services.Update(c, read, metav1.UpdateOptions{})
	refused("an old resourceVersion", apierrors.IsConflict, err)
	read.ResourceVersion = ""
	read.Spec.ClusterIP, read.Spec.ClusterIPs = "192.0.2.1", []string{"192.0.2.1"}
	_, err = services.Update(c, read, metav1.UpdateOptions{})
	refused("another address", apierrors.IsInvalid, err)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		fail("no causes: %v", err)
	}

	patch := []byte(`{"spec":{"ports":[{"port":80,"name":"web"}]}}`)
	patched := must1(services.Patch(c, "crud", types.StrategicMergePatchType, patch, metav1.PatchOptions{}))
	equal("merged by key", patched.Spec.Ports[0].NodePort, updated.Spec.Ports[0].NodePort)
	patch = []byte(`[{"op":"test","path":"/spec/ports/0/name","value":"web"},{"op":"add","path":"/metadata/labels/x","value":"y"}]`)
	patched = must1(services.Patch(c, "crud", types.JSONPatchType, patch, metav1.PatchOptions{}))
	equal("label", patched.Labels["x"], "y")
	patched = must1(services.Patch(c, "crud", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":null}}}`), metav1.PatchOptions{}))
	equal("labels", len(patched.Labels), 1)
	patched.Status.Conditions = []metav1.Condition{{
		Type: "example.com/Seen", Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now(),
	}}
	patched = must1(services.UpdateStatus(c, patched, metav1.UpdateOptions{}))
	equal("conditions", len(patched.Status.Conditions), 1)

	must(services.Delete(c, "crud", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(made.UID))}))
	_, err = services.Get(c, "crud", metav1.GetOptions{})
	refused("deleted", apierrors.IsNotFound, err)
	told := []watch.EventType{}
	for len(told) == 0 || told[len(told)-1] != watch.Deleted {
		event := next("watch", watching.ResultChan())
		if event.Type != watch.Bookmark {
			told = append(told, event.Type)
			equal("watched", event.Object.(*corev1.Service).Name, "crud")
		}
	}
	equal("watched", fmt.Sprint(told), "[ADDED MODIFIED MODIFIED MODIFIED MODIFIED MODIFIED DELETED]")

	for _, name := range []string{"many-1", "many-2"} {
		must1(services.Create(c, service(name), metav1.CreateOptions{}))
	}
	for _, name := range []string{"many-1", "many-2"} {
		must(services.Delete(c, name, *metav1.NewDeleteOptions(0)))
	}
}

// Reports a Pod as a node does; the scheduler writes into the same status meanwhile.
func report(c cluster, name string, ready corev1.ConditionStatus) {
	pods := c.CoreV1().Pods(namespace)
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		one := must1(pods.Get(c, name, metav1.GetOptions{}))
		one.Status.Phase = corev1.PodRunning
		one.Status.PodIP, one.Status.PodIPs = "10.244.9.9", []corev1.PodIP{{IP: "10.244.9.9"}}
		one.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		_, err := pods.UpdateStatus(c, one, metav1.UpdateOptions{})
		return err
	}))
}

func pods(c cluster) {
	pods := c.CoreV1().Pods(namespace)
	unready := pod("evicted")
	unready.GenerateName, unready.Name = "evicted-", ""
	made := must1(pods.Create(c, unready, metav1.CreateOptions{}))
	if !strings.HasPrefix(made.Name, "evicted-") || made.Status.Phase != corev1.PodPending || made.Status.QOSClass != corev1.PodQOSBestEffort {
		fail("a new Pod: %+v", made)
	}
	found := must1(pods.List(c, metav1.ListOptions{FieldSelector: "status.phase=Pending,spec.nodeName="}))
	equal("selected", len(found.Items), 1)

	minimum := intstr.FromInt32(1)
	budgets := c.PolicyV1().PodDisruptionBudgets(namespace)
	must1(budgets.Create(c, &policyv1.PodDisruptionBudget{
		ObjectMeta: named("evicted"),
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &minimum, Selector: metav1.SetAsLabelSelector(made.Labels)},
	}, metav1.CreateOptions{}))
	report(c, made.Name, corev1.ConditionTrue)
	eventually("the budget counts the Pod", func() error {
		budget := must1(budgets.Get(c, "evicted", metav1.GetOptions{}))
		if budget.Status.CurrentHealthy != 1 {
			return fmt.Errorf("%+v", budget.Status)
		}
		return nil
	})
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: made.Name, Namespace: namespace}}
	err := pods.EvictV1(c, eviction)
	refused("an eviction too many", apierrors.IsTooManyRequests, err)
	if !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		fail("no cause: %v", err)
	}
	must(budgets.Delete(c, "evicted", metav1.DeleteOptions{}))
	must(pods.EvictV1(c, eviction))
	eventually("the Pod is gone", func() error {
		_, err := pods.Get(c, made.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %v", err)
	})
	for _, name := range []string{"all-1", "all-2"} {
		one := pod(name)
		one.Labels["all"] = "yes"
		must1(pods.Create(c, one, metav1.CreateOptions{}))
	}
	all := metav1.ListOptions{LabelSelector: "all in (yes)"}
	must(pods.DeleteCollection(c, metav1.DeleteOptions{}, all))
	eventually("the collection is gone", func() error {
		if left := must1(pods.List(c, all)); len(left.Items) > 0 {
			return fmt.Errorf("%d left", len(left.Items))
		}
		return nil
	})
}

func apply(c cluster) {
	services := c.CoreV1().Services(namespace)
	wanted := func(port int32) *corev1ac.ServiceApplyConfiguration {
		return corev1ac.Service("applied", namespace).WithLabels(map[string]string{"a": "b"}).WithSpec(
			corev1ac.ServiceSpec().WithSelector(map[string]string{"app": "applied"}).WithPorts(
				corev1ac.ServicePort().WithName("http").WithPort(80).WithTargetPort(intstr.FromInt32(port))))
	}
	as := func(manager string) metav1.ApplyOptions { return metav1.ApplyOptions{FieldManager: manager} }
	made := must1(services.Apply(c, wanted(8080), as("one")))
	again := must1(services.Apply(c, wanted(8080), as("one")))
	equal("applied twice", again.ResourceVersion, made.ResourceVersion)
	_, err := services.Apply(c, wanted(9090), as("two"))
	refused("two values", apierrors.IsConflict, err)
	if !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) || !strings.Contains(err.Error(), `conflict with "one"`) {
		fail("no cause: %v", err)
	}
	forced := as("two")
	forced.Force = true
	taken := must1(services.Apply(c, wanted(9090), forced))
	equal("taken", taken.Spec.Ports[0].TargetPort.IntVal, 9090)

	// What a manager owns can be taken from the object, changed and applied again.
	own := must1(corev1ac.ExtractService(taken, "one"))
	if own.Labels["a"] != "b" || own.Spec == nil || own.Spec.Ports[0].TargetPort != nil {
		fail("what is still owned: %+v", own)
	}
	delete(own.Labels, "a")
	left := must1(services.Apply(c, own, as("one")))
	equal("a label that another one wants", left.Labels["a"], "b")
	left = must1(services.Apply(c, own, as("two")))
	equal("a label that nobody wants", left.Labels["a"], "")

	status := corev1ac.Service("applied", namespace).WithStatus(corev1ac.ServiceStatus().WithConditions(
		metav1ac.Condition().WithType("example.com/Applied").WithStatus(metav1.ConditionTrue).
			WithReason("Test").WithMessage("").WithLastTransitionTime(metav1.Now())))
	shown := must1(services.ApplyStatus(c, status, as("status")))
	equal("conditions", len(shown.Status.Conditions), 1)
	if own := must1(corev1ac.ExtractServiceStatus(shown, "status")); own.Spec != nil || len(own.Status.Conditions) != 1 {
		fail("what the status is owned by: %+v", own)
	}
	must(services.Delete(c, "applied", metav1.DeleteOptions{}))
}

// Clients that write protobuf and accept it, but take JSON.
func protobuf(c cluster) {
	config := rest.CopyConfig(c.config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client := kubernetes.NewForConfigOrDie(config)
	services := client.CoreV1().Services(namespace)
	made := must1(services.Create(c, service("protobuf"), metav1.CreateOptions{}))
	equal("target port", made.Spec.Ports[0].TargetPort, intstr.FromString("web"))
	watching := must1(services.Watch(c, metav1.ListOptions{
		FieldSelector: "metadata.name=protobuf", ResourceVersion: made.ResourceVersion,
	}))
	defer watching.Stop()
	made.Annotations = map[string]string{"ä": "ö"}
	_, err := services.Update(c, made, metav1.UpdateOptions{})
	refused("an annotation's name", apierrors.IsInvalid, err)
	made.Annotations = map[string]string{"a": "ö"}
	made = must1(services.Update(c, made, metav1.UpdateOptions{}))
	event := next("watch", watching.ResultChan())
	equal("watched", event.Object.(*corev1.Service).Annotations["a"], "ö")
	must(services.Delete(c, "protobuf", *metav1.NewPreconditionDeleteOptions(string(made.UID))))

	deployments := client.AppsV1().Deployments(namespace)
	deployment := must1(deployments.Create(c, deployment("protobuf"), metav1.CreateOptions{}))
	equal("surge", deployment.Spec.Strategy.RollingUpdate.MaxSurge.String(), "25%")
	must(deployments.Delete(c, "protobuf", metav1.DeleteOptions{}))
}

type warnings struct{ record }

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { w.add(text) }

func fieldValidation(c cluster) {
	heard := &warnings{}
	config := rest.CopyConfig(c.config)
	config.WarningHandler = heard
	client := kubernetes.NewForConfigOrDie(config)
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"validated"},"data":{"a":"b","a":"c"},"datum":{}}`)
	send := func(validation string) error {
		return client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("configmaps").
			Param("fieldValidation", validation).Param("dryRun", "All").Body(body).Do(c).Error()
	}
	refused("an unknown field", apierrors.IsBadRequest, send("Strict"))
	equal("warnings", len(heard.all()), 0)
	must(send("Ignore"))
	equal("warnings", len(heard.all()), 0)
	must(send("Warn"))
	equal("warned of", fmt.Sprintf("%q", heard.all()), `["unknown field \"datum\"" "duplicate field \"data.a\""]`)
	one := pod("warned")
	one.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "X", Value: "2"}}
	_, err := client.CoreV1().Pods(namespace).Create(c, one, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	must(err)
	equal("warned of", heard.all()[2], `spec.containers[0].env[1]: hides previous definition of "X", which may be dropped when using apply`)
}

func pages(c cluster) {
	maps := c.CoreV1().ConfigMaps(namespace)
	for at := range 7 {
		must1(maps.Create(c, &corev1.ConfigMap{ObjectMeta: named(fmt.Sprintf("page-%d", at), "paged", "yes")}, metav1.CreateOptions{}))
	}
	by := metav1.ListOptions{LabelSelector: "paged=yes"}
	page := must1(maps.List(c, metav1.ListOptions{LabelSelector: "paged=yes", Limit: 3}))
	if len(page.Items) != 3 || page.Continue == "" || page.RemainingItemCount != nil {
		fail("a page: %d, %v", len(page.Items), page.RemainingItemCount)
	}
	names := []string{}
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) { return maps.List(c, options) }))
	pages.PageSize = 3
	must(pages.EachListItem(c, by, func(one runtime.Object) error {
		names = append(names, one.(*corev1.ConfigMap).Name)
		return nil
	}))
	equal("all once", strings.Join(names, " "), "page-0 page-1 page-2 page-3 page-4 page-5 page-6")
	must(maps.DeleteCollection(c, metav1.DeleteOptions{}, by))
	equal("left", len(must1(maps.List(c, by)).Items), 0)
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: named(name),
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(0)), Selector: metav1.SetAsLabelSelector(labels),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(name).Spec},
		},
	}
}

func scale(c cluster) {
	deployments := c.AppsV1().Deployments(namespace)
	must1(deployments.Create(c, deployment("scaled"), metav1.CreateOptions{}))
	// The controllers write meanwhile: a conflict is met by reading again.
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale := must1(deployments.GetScale(c, "scaled", metav1.GetOptions{}))
		equal("selector", scale.Status.Selector, "app=scaled")
		scale.Spec.Replicas = 2
		_, err := deployments.UpdateScale(c, "scaled", scale, metav1.UpdateOptions{})
		return err
	}))
	eventually("there are two Pods", func() error {
		sets := must1(c.AppsV1().ReplicaSets(namespace).List(c, metav1.ListOptions{LabelSelector: "app=scaled"}))
		pods := must1(c.CoreV1().Pods(namespace).List(c, metav1.ListOptions{LabelSelector: "app=scaled"}))
		if len(sets.Items) != 1 || len(pods.Items) != 2 || !metav1.IsControlledBy(&pods.Items[0], &sets.Items[0]) {
			return fmt.Errorf("%d sets, %d Pods", len(sets.Items), len(pods.Items))
		}
		return nil
	})
	for range 20 {
		must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			one := must1(deployments.Get(c, "scaled", metav1.GetOptions{}))
			metav1.SetMetaDataAnnotation(&one.ObjectMeta, "count", one.Annotations["count"]+"|")
			_, err := deployments.Update(c, one, metav1.UpdateOptions{})
			return err
		}))
	}
	one := must1(deployments.Get(c, "scaled", metav1.GetOptions{}))
	equal("counted", len(one.Annotations["count"]), 20)
	foreground := metav1.DeletePropagationForeground
	must(deployments.Delete(c, "scaled", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	eventually("all went", func() error {
		_, err := deployments.Get(c, "scaled", metav1.GetOptions{})
		pods := must1(c.CoreV1().Pods(namespace).List(c, metav1.ListOptions{LabelSelector: "app=scaled"}))
		if !apierrors.IsNotFound(err) || len(pods.Items) > 0 {
			return fmt.Errorf("%v, %d Pods", err, len(pods.Items))
		}
		return nil
	})
}

func reviews(c cluster) {
	who := must1(c.AuthenticationV1().SelfSubjectReviews().Create(c, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	if who.Status.UserInfo.Username == "" {
		fail("who am I: %+v", who)
	}
	may := must1(c.AuthorizationV1().SubjectAccessReviews().Create(c, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:default:default",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: namespace},
		},
	}, metav1.CreateOptions{}))
	equal("allowed", may.Status.Allowed, false)

	token := must1(c.CoreV1().ServiceAccounts(namespace).CreateToken(c, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(600))},
	}, metav1.CreateOptions{}))
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token.Status.Token
	as := kubernetes.NewForConfigOrDie(config)
	who = must1(as.AuthenticationV1().SelfSubjectReviews().Create(c, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	equal("user", who.Status.UserInfo.Username, "system:serviceaccount:default:default")
	_, err := as.CoreV1().Secrets(namespace).List(c, metav1.ListOptions{})
	refused("without rights", apierrors.IsForbidden, err)
	config.BearerToken = "nonsense"
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets(namespace).List(c, metav1.ListOptions{})
	refused("a token that is none", apierrors.IsUnauthorized, err)
	reviewed := must1(c.AuthenticationV1().TokenReviews().Create(c, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token},
	}, metav1.CreateOptions{}))
	equal("authenticated", reviewed.Status.Authenticated, true)
	if text := string(must1(json.Marshal(reviewed.Status.User))); !strings.Contains(text, "authentication.kubernetes.io/credential-id") {
		fail("the token's id: %s", text)
	}
}
