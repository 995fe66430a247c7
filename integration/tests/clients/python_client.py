"""The official Python client against a minik server: create of every kind, list, watch, patches, errors.

Usage: python_client.py KUBECONFIG [POD]

With a Pod of the built-in image, commands are run in it instead.
"""

import os
import sys
import threading

for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

CONTAINER = {"name": "c", "image": "minik.dev/echo:1"}
TEMPLATE = {"metadata": {"labels": {"app": "py"}}, "spec": {"containers": [CONTAINER]}}
SELECTOR = {"matchLabels": {"app": "py"}}
ROLE = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
USER = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}

# One object of each kind: (apiVersion, kind, what it holds beside its name).
OBJECTS = [
    ("v1", "Namespace", {}),
    ("v1", "Node", {}),
    ("v1", "Pod", {"spec": TEMPLATE["spec"]}),
    ("v1", "Service", {"spec": {"selector": {"app": "py"}, "ports": [{"port": 80}]}}),
    ("v1", "Endpoints", {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
    ("v1", "ConfigMap", {"data": {"a": "b"}}),
    ("v1", "Secret", {"stringData": {"a": "b"}}),
    ("v1", "ServiceAccount", {}),
    ("v1", "Event", {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "reason": "Test"}),
    ("v1", "ResourceQuota", {"spec": {"hard": {"pods": "10"}}}),
    ("v1", "LimitRange", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
    ("discovery.k8s.io/v1", "EndpointSlice", {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]}),
    ("coordination.k8s.io/v1", "Lease", {"spec": {"holderIdentity": "me"}}),
    ("apps/v1", "Deployment", {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}}),
    ("apps/v1", "ReplicaSet", {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}}),
    ("apps/v1", "DaemonSet", {"spec": {"selector": SELECTOR, "template": TEMPLATE}}),
    ("apps/v1", "StatefulSet", {"spec": {"selector": SELECTOR, "template": TEMPLATE, "serviceName": "py"}}),
    ("apps/v1", "ControllerRevision", {"revision": 1, "data": {"a": "b"}}),
    ("batch/v1", "Job", {"spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}}),
    ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": 1, "selector": SELECTOR}}),
    ("networking.k8s.io/v1", "IngressClass", {"spec": {"controller": "example.com/ingress"}}),
    ("scheduling.k8s.io/v1", "PriorityClass", {"value": 10}),
    ("node.k8s.io/v1", "RuntimeClass", {"handler": "py"}),
    ("rbac.authorization.k8s.io/v1", "Role", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", {"rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", {"roleRef": ROLE, "subjects": [USER]}),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", {"roleRef": ROLE, "subjects": [USER]}),
]


def every_kind_is_created_read_listed_and_deleted(api):
    """By the dynamic client, which finds each kind through discovery."""
    found = dynamic.DynamicClient(api)
    for api_version, kind, content in OBJECTS:
        resource = found.resources.get(api_version=api_version, kind=kind)
        namespace = {"namespace": "default"} if resource.namespaced else {}
        body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "py"}, **content}
        made = resource.create(body=body, **namespace)
        assert made.metadata.uid and made.metadata.resourceVersion, kind
        read = resource.get(name="py", **namespace)
        assert read.kind == kind and read.metadata.uid == made.metadata.uid, kind
        names = [one.metadata.name for one in resource.get(**namespace).items]
        assert "py" in names, (kind, names)
        patch = {"metadata": {"labels": {"by": "python"}}}
        changed = resource.patch(name="py", body=patch, content_type="application/merge-patch+json", **namespace)
        assert changed.metadata.labels.by == "python", kind
        resource.delete(name="py", body={"gracePeriodSeconds": 0}, **namespace)


def typed_objects_come_back_as_they_went(core, apps):
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="typed"),
        spec=client.V1ServiceSpec(
            type="NodePort",
            selector={"app": "typed"},
            ports=[client.V1ServicePort(name="http", port=80, target_port="web")],
        ),
    )
    made = core.create_namespaced_service("default", service)
    assert made.spec.cluster_ip and made.spec.ports[0].node_port >= 30000
    assert made.spec.ports[0].target_port == "web" and made.spec.session_affinity == "None"
    made.spec.ports[0].port = 81
    replaced = core.replace_namespaced_service("typed", "default", made)
    assert replaced.spec.cluster_ip == made.spec.cluster_ip and replaced.spec.ports[0].port == 81
    try:
        core.replace_namespaced_service("typed", "default", made)
        raise AssertionError("a stale resourceVersion is refused")
    except ApiException as error:
        assert error.status == 409, error
    patched = core.patch_namespaced_service("typed", "default", {"spec": {"ports": [{"port": 81, "name": "web"}]}})
    assert [port.name for port in patched.spec.ports] == ["web"]

    container = client.V1Container(name="c", image="minik.dev/echo:1")
    deployment = client.V1Deployment(
        metadata=client.V1ObjectMeta(name="typed"),
        spec=client.V1DeploymentSpec(
            replicas=0,
            selector=client.V1LabelSelector(match_labels={"app": "typed"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": "typed"}),
                spec=client.V1PodSpec(containers=[container]),
            ),
        ),
    )
    made = apps.create_namespaced_deployment("default", deployment)
    assert made.spec.strategy.rolling_update.max_surge == "25%"
    scale = apps.read_namespaced_deployment_scale("typed", "default")
    # A zero is left out on the wire.
    assert not scale.spec.replicas and scale.status.selector == "app=typed"
    try:
        core.read_namespaced_service("absent", "default")
        raise AssertionError("it does not exist")
    except ApiException as error:
        assert error.status == 404 and "NotFound" in error.body, error


def a_watch_tells_each_change_once(core):
    def maps(**more):
        return core.list_namespaced_config_map("default", label_selector="watched=yes", **more)

    revision = maps().metadata.resource_version

    def changes():
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w", labels={"watched": "yes"}))
        core.create_namespaced_config_map("default", body)
        core.patch_namespaced_config_map("w", "default", {"data": {"a": "b"}})
        core.delete_namespaced_config_map("w", "default")

    changer = threading.Thread(target=changes)
    changer.start()
    told = []
    events = watch.Watch().stream(
        core.list_namespaced_config_map,
        "default",
        label_selector="watched=yes",
        resource_version=revision,
        timeout_seconds=30,
    )
    for event in events:
        told.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            break
    changer.join()
    assert told == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], told


def pages_hold_all_objects_once(core):
    for number in range(7):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"page-{number}", labels={"paged": "yes"}))
        core.create_namespaced_config_map("default", body)
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map("default", label_selector="paged=yes", limit=3, _continue=token)
        names += [one.metadata.name for one in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{number}" for number in range(7)], names
    core.delete_collection_namespaced_config_map("default", label_selector="paged=yes")
    assert not core.list_namespaced_config_map("default", label_selector="paged=yes").items


def server_side_apply_finds_conflicts(api):
    maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")

    def apply(manager, value, **more):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": value}}
        return maps.server_side_apply(body=body, name="applied", namespace="default", field_manager=manager, **more)

    apply("one", "1")
    try:
        apply("two", "2")
        raise AssertionError("two managers want two values")
    except ApiException as error:
        assert error.status == 409, error
    assert apply("two", "2", force_conflicts=True).data.a == "2"


def commands_run_in_a_pod(core, pod):
    def run(*command, **more):
        return stream(
            core.connect_get_namespaced_pod_exec,
            pod,
            "default",
            command=["/minik", *command],
            stdout=True,
            stderr=True,
            **more,
        )

    assert pod in run("fetch", "http://localhost:9376/")
    fails = run("nonsense", _preload_content=False)
    fails.run_forever(timeout=30)
    assert fails.returncode == 2 and "nonsense" in fails.read_stderr()
    lines = run("fetch", "--lines", "tcp://localhost:9377", stdin=True, _preload_content=False)
    lines.write_stdin("hello\n")
    assert "hello" in lines.readline_stdout(timeout=30)
    lines.close()
    assert "listening" in core.read_namespaced_pod_log(pod, "default")


def main():
    config.load_kube_config(sys.argv[1])
    if len(sys.argv) > 2:
        commands_run_in_a_pod(client.CoreV1Api(), sys.argv[2])
        print("all done")
        return
    api, core, apps = client.ApiClient(), client.CoreV1Api(), client.AppsV1Api()
    assert client.VersionApi().get_code().major == "1"
    every_kind_is_created_read_listed_and_deleted(api)
    typed_objects_come_back_as_they_went(core, apps)
    a_watch_tells_each_change_once(core)
    pages_hold_all_objects_once(core)
    server_side_apply_finds_conflicts(api)
    print("all done")


main()
