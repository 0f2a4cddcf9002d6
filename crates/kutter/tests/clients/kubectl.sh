#!/usr/bin/env bash
# Every command of kubectl that needs no node, as a person would type it. Usage: kubectl.sh KUBECTL
# An old kubectl (Debian's) lacks some commands: what it does not know is left out.
set -euo pipefail
k() { "$KUBECTL" "$@"; }
KUBECTL=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

step() { echo "--- $1"; }
fail() { echo "$1" >&2; exit 1; }
# Runs a command whose output must have the text.
says() {
    local wanted=$1 said
    shift
    said=$("$@" 2>&1) || fail "$* failed: $said"
    [[ $said == *"$wanted"* ]] || fail "$* does not say '$wanted' but: $said"
}
# Runs a command that must fail with the text.
refuses() {
    local wanted=$1 said
    shift
    if said=$("$@" 2>&1); then fail "$* was not refused: $said"; fi
    [[ $said == *"$wanted"* ]] || fail "$* does not say '$wanted' but: $said"
}
minor=$(k version --client -o json | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p')

cat > web.yaml <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "registry.example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
YAML

step 'version, cluster-info, api-resources, api-versions'
says 'v1.36' k version
says 'is running at' k cluster-info
says 'deployments' k api-resources --namespaced=true --verbs=list -o name
says 'horizontalpodautoscalers' k api-resources --api-group=autoscaling
says 'networking.k8s.io/v1' k api-versions

step 'apply, diff, apply again'
says 'deployment.apps/web created' k apply -f web.yaml
says 'deployment.apps/web unchanged' k apply -f web.yaml
sed 's/web:1/web:2/' web.yaml > web2.yaml
refuses 'web:2' k diff -f web2.yaml
says 'configured' k apply -f web2.yaml
k diff -f web2.yaml
says 'serverside-applied' k apply --server-side --force-conflicts -f web2.yaml
says 'serverside-applied (server dry run)' k apply --server-side --dry-run=server -f web2.yaml
refuses 'unknown' k apply -f - <<< '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wrong"}, "dta": {}}'

step 'get in every form'
says 'UP-TO-DATE' k get deployments
says 'SELECTOR' k get deployments -o wide
says 'image: registry.example/web:2' k get deployment web -o yaml
says '"kind": "Deployment"' k get deployment web -o json
[ "$(k get deploy web -o jsonpath='{.spec.template.spec.containers[*].name}')" = c ]
says 'IMAGE' k get deploy -o custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image
says 'service/web' k get all
says 'web' k get deploy -l app=web --sort-by=.metadata.name --show-labels -A
says 'No resources found' k get pods --field-selector spec.nodeName=nowhere
refuses 'not found' k get deployment nothing
timeout 20 "$KUBECTL" get configmaps -w -o name > watched &
watcher=$!
for _ in $(seq 200); do grep -q root-ca watched && break; sleep 0.05; done
k create configmap seen --from-literal=a=b
for _ in $(seq 200); do grep -q configmap/seen watched && break; sleep 0.05; done
kill "$watcher" 2> /dev/null || true
grep -q configmap/seen watched || fail 'get -w does not show what is made'

step 'describe and explain'
says 'RollingUpdateStrategy' k describe deployment web
says 'Endpoints' k describe service web
says 'No resource quota' k describe namespace default
says 'KIND' k explain deployment.spec.strategy
says 'rollingUpdate' k explain deployment --recursive

step 'label, annotate, patch, edit, set, scale, autoscale, expose, replace'
says 'labeled' k label deployment web tier=front
refuses 'overwrite' k label deployment web tier=back
says 'annotated' k annotate deployment web note=hello
says 'patched' k patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"B"}]}]}}}}'
says 'patched' k patch deployment web --type=merge -p '{"spec":{"paused":true}}'
says 'patched' k patch deployment web --type=json -p '[{"op":"remove","path":"/spec/paused"}]'
says 'edited' env KUBE_EDITOR="sed -i s/hello/goodbye/" "$KUBECTL" edit deployment web
[ "$(k get deploy web -o jsonpath='{.metadata.annotations.note}')" = goodbye ]
says 'image updated' k set image deployment/web c=registry.example/web:3
says 'env updated' k set env deployment/web C=D
says 'resource requirements updated' k set resources deployment web --requests=cpu=10m
says 'scaled' k scale deployment web --replicas=3
refuses 'xpected' k scale deployment web --current-replicas=7 --replicas=1
says 'autoscaled' k autoscale deployment web --max=5 --cpu-percent=50
says 'exposed' k expose deployment web --name=web2 --port=81
k get service web2 -o json > service.json
says 'replaced' k replace -f service.json
says 'replaced' k replace --force -f service.json

step 'rollout'
says 'REVISION' k rollout history deployment web
says 'paused' k rollout pause deployment web
says 'resumed' k rollout resume deployment web
says 'restarted' k rollout restart deployment web
for _ in $(seq 100); do k rollout undo deployment web && break; sleep 0.1; done

step 'create: one of each'
says 'created' k create namespace other
says 'created' k create secret generic s --from-literal=p=q
says 'created' k create serviceaccount robot
says 'created' k create role reader --verb=get,list --resource=pods
says 'created' k create rolebinding robot --role=reader --serviceaccount=default:robot
says 'created' k create clusterrole all --verb='*' --resource='*.*'
says 'created' k create quota q --hard=pods=100
says 'created' k create priorityclass high --value=1000
says 'created' k create job j --image=i
says 'created' k create ingress i --rule='shop.localhost/*=web:80'
says 'pod/one created' k run one --image=i --restart=Never

# Debian's kubectl of 1.20 makes these of versions that are gone.
if [ "$minor" -ge 24 ]; then
    says 'created' k create cronjob cj --image=i --schedule='*/5 * * * *'
    says 'created' k create poddisruptionbudget p --selector=app=web --min-available=1
fi

step 'access'
says 'yes' k auth can-i create deployments
if [ "$minor" -ge 28 ]; then says 'system:masters' k auth whoami; fi
if [ "$minor" -ge 24 ]; then says 'ey' k create token robot; fi

step 'certificates'
openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -subj '/CN=jane/O=people' -out csr.pem 2> openssl.log
k create -f - <<YAML
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: jane}
spec:
  request: $(base64 -w0 < csr.pem)
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
YAML
says 'approved' k certificate approve jane
[ "$(k get csr jane -o jsonpath='{.status.conditions[0].type}')" = Approved ]

step 'wait, kustomize, delete'
k create -f - <<'YAML'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: toys, kind: Toy, shortNames: [ty]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {colour: {type: string}}}}
YAML
says 'condition met' k wait --for=condition=Established crd/toys.example.com --timeout=20s
until k create -f - 2> toy.log <<< '{"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "t"}, "spec": {"colour": "red"}}'; do sleep 0.1; done
says 'COLOUR' k get ty
says 'deleted' k delete toy t
mkdir kustom
cp web.yaml kustom/
printf 'resources: [web.yaml]\nnamePrefix: my-\nnamespace: other\n' > kustom/kustomization.yaml
says 'name: my-web' k kustomize kustom
says 'deployment.apps/my-web created' k apply -k kustom
says 'deleted' k delete -k kustom
says 'deleted' k delete deployment web --cascade=orphan
[ -n "$(k get rs -l app=web -o name)" ] || fail 'the replica sets went with the deployment'
says 'deleted' k delete rs -l app=web --cascade=foreground
says 'deleted' k delete pod one --now --wait=false
says 'deleted' k delete namespace other --wait=true --timeout=30s
refuses 'not found' k get namespace other
echo ok
