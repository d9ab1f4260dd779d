{{/* --- Names ------------------------------------------------------------- */}}

{{- define "release-server.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" }}
{{- end }}

{{/* 46 characters, so that what is appended fits: names have at most 63, those of CronJobs 52. */}}
{{- define "release-server.fullname" -}}
{{- $name := include "release-server.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "release-server.serviceAccount" -}}
{{ default (ternary (include "release-server.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* The servers' pods; must never change, as a Deployment's selector cannot. */}}
{{- define "release-server.selector" -}}
{{ include "release-server.selectorOf" (dict "root" . "component" "server") }}
{{- end }}

{{- define "release-server.selectorOf" -}}
app.kubernetes.io/name: {{ include "release-server.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "release-server.labels" -}}
{{ include "release-server.labelsOf" (dict "root" . "component" "server") }}
{{- end }}

{{- define "release-server.labelsOf" -}}
{{ include "release-server.selectorOf" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "release-server.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* --- What the values come down to; "true" or nothing, where a condition ---- */}}

{{/* A volume that the pods of one node alone can use. */}}
{{- define "release-server.singleNode" -}}
{{- if and (eq .Values.storage.type "pvc") (not (has "ReadWriteMany" .Values.storage.pvc.accessModes)) }}true{{ end }}
{{- end }}

{{- define "release-server.replicas" -}}
{{- if kindIs "invalid" .Values.replicaCount -}}
{{ ternary 1 2 (eq (include "release-server.singleNode" .) "true") }}
{{- else -}}
{{ int .Values.replicaCount }}
{{- end -}}
{{- end }}

{{- define "release-server.tokenSecret" -}}
{{- if .Values.auth.existingSecret -}}
{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.generate -}}
{{ include "release-server.fullname" . }}-token
{{- end -}}
{{- end }}

{{- define "release-server.storageSecret" -}}
{{- if .Values.minio.enabled -}}
{{ include "release-server.fullname" . }}-minio
{{- else -}}
{{ .Values.storage.s3.existingSecret }}
{{- end -}}
{{- end }}

{{- define "release-server.storageEndpoint" -}}
{{- if .Values.minio.enabled -}}
http://{{ include "release-server.fullname" . }}-minio:9000
{{- else -}}
{{ .Values.storage.s3.endpoint }}
{{- end -}}
{{- end }}

{{- define "release-server.claim" -}}
{{ default (include "release-server.fullname" .) .Values.storage.pvc.existingClaim }}
{{- end }}

{{- define "release-server.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl }}
{{- else if and .Values.ingress.enabled .Values.ingress.host -}}
{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.host }}{{ .Values.ingress.pathPrefix }}
{{- end -}}
{{- end }}

{{- define "release-server.servicePort" -}}
{{ default (ternary 443 80 .Values.tls.enabled) .Values.service.port | int }}
{{- end }}

{{/* The server's URL inside the cluster. */}}
{{- define "release-server.url" -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ include "release-server.fullname" . }}:{{ include "release-server.servicePort" . }}
{{- end }}

{{/* Whether the test's upload is made: where it asks for it, or where it cannot push another package out. */}}
{{- define "release-server.testsUpload" -}}
{{- $config := .Values.config -}}
{{- $retention := default dict $config.retention -}}
{{- $token := include "release-server.tokenSecret" . -}}
{{- if not (kindIs "invalid" .Values.tests.upload) -}}
{{- if .Values.tests.upload }}true{{ end -}}
{{- else if and $token (not $config.read_only) (eq (toString $config.max_packages) "0") (not $retention.versions_per_family) (has (default "off" $retention.max_age) (list "off")) -}}
true
{{- end -}}
{{- end }}

{{/* The server's configuration file. */}}
{{- define "release-server.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := default dict $config.server -}}
{{- $_ := set $server "shutdown_grace" (printf "%ds" (int .Values.shutdown.graceSeconds)) -}}
{{- $_ := set $config "server" $server -}}
{{- if eq .Values.storage.type "pvc" -}}
{{- $_ := set $config "storage_path" "/data" -}}
{{- else if .Values.minio.enabled -}}
{{- $_ := set $config "storage_url" "s3://releases" -}}
{{- else -}}
{{- $prefix := .Values.storage.s3.prefix | trimAll "/" -}}
{{- $_ := set $config "storage_url" (printf "s3://%s%s" .Values.storage.s3.bucket (ternary (printf "/%s" $prefix) "" (ne $prefix ""))) -}}
{{- end -}}
{{- with include "release-server.publicUrl" . -}}
{{- $_ := set $config "public_url" . -}}
{{- end -}}
{{- if ne .Values.sweep.mode "inProcess" -}}
{{- $retention := default dict $config.retention -}}
{{- $_ := set $retention "interval" "off" -}}
{{- $_ := set $config "retention" $retention -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* --- Parts that the server, the sweep and the tests share ------------------ */}}

{{/* What reaches the store. */}}
{{- define "release-server.storageEnv" -}}
{{- if eq .Values.storage.type "s3" }}
- name: AWS_REGION
  value: {{ .Values.storage.s3.region | quote }}
{{- with include "release-server.storageEndpoint" . }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- if hasPrefix "http://" . }}
- name: AWS_ALLOW_HTTP
  value: "true"
{{- end }}
{{- end }}
{{- with include "release-server.storageSecret" . }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ ternary "AWS_ACCESS_KEY_ID" $.Values.storage.s3.accessKeyIdKey $.Values.minio.enabled }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ ternary "AWS_SECRET_ACCESS_KEY" $.Values.storage.s3.secretAccessKeyKey $.Values.minio.enabled }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the server alone has. */}}
{{- define "release-server.serverEnv" -}}
{{- with include "release-server.tokenSecret" . }}
- name: AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.auth.secretKey }}
{{- end }}
{{- if .Values.metrics.enabled }}
- name: METRICS__BIND_ADDRESS
  value: {{ printf "%s:%d" (ternary "[::]" "0.0.0.0" (contains ":" (default "" .Values.config.bind_address))) (int .Values.metrics.port) | quote }}
{{- end }}
{{- if .Values.tls.enabled }}
- name: TLS__CERTIFICATE
  value: /etc/release-server-tls/tls.crt
- name: TLS__KEY
  value: /etc/release-server-tls/tls.key
{{- end }}
{{- end }}

{{/* Mounts and volumes for the configuration and the store. */}}
{{- define "release-server.mounts" -}}
- name: config
  mountPath: /etc/release-server
  readOnly: true
{{- if eq .Values.storage.type "pvc" }}
- name: data
  mountPath: /data
{{- end }}
{{- end }}

{{- define "release-server.volumes" -}}
- name: config
  configMap:
    name: {{ include "release-server.fullname" . }}
{{- if eq .Values.storage.type "pvc" }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "release-server.claim" . }}
{{- end }}
{{- end }}

{{/* What every pod of ours says of itself. */}}
{{- define "release-server.pod" -}}
serviceAccountName: {{ include "release-server.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the volume is on one node, the sweep and the tests go there too. */}}
{{- define "release-server.besideServer" -}}
{{- if include "release-server.singleNode" . }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "release-server.selector" . | nindent 12 }}
{{- end }}
{{- end }}

{{/* What a value was at the last installation, as it stands in the Secret; else a new one. */}}
{{- define "release-server.keptOrRandom" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := default dict (default dict $found).data -}}
{{ default (randAlphaNum 48 | b64enc) (index $data .key) }}
{{- end }}
