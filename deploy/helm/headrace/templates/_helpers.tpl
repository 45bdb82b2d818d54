{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "headrace.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "headrace.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "headrace.cacheClaim" -}}
{{- if .Values.cache.existingClaim }}{{ .Values.cache.existingClaim }}
{{- else if .Values.cache.claim.enabled }}{{ include "headrace.fullname" . }}-cache
{{- end }}
{{- end }}

{{- define "headrace.options" -}}
{{ toYaml .Values.options }}
{{- if .Values.data.enabled }}
data-dir: /data
{{- end }}
{{- if .Values.keysFile.existingSecret }}
api-keys-file: /etc/headrace-keys/{{ .Values.keysFile.secretKey }}
{{- end }}
{{- if .Values.tls.existingSecret }}
ssl-certfile: /etc/headrace-tls/tls.crt
ssl-keyfile: /etc/headrace-tls/tls.key
{{- end }}
{{- end }}

{{- define "headrace.drainSeconds" -}}
{{- if hasKey .Values.options "shutdown-timeout" }}{{ ceil (index .Values.options "shutdown-timeout") }}{{ else }}30{{ end }}
{{- end }}

{{- define "headrace.scheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.tls.existingSecret "") }}
{{- end }}
