{{- define "redkeep.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "redkeep.selector" -}}
app.kubernetes.io/name: redkeep
app.kubernetes.io/component: operator
{{- end -}}

{{- define "redkeep.labels" -}}
{{ include "redkeep.selector" . }}
app.kubernetes.io/part-of: redkeep
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* A file of config/ (copied by `cargo xtask generate`) for this release's namespace and image. */}}
{{- define "redkeep.file" -}}
{{ .root.Files.Get .name | replace "redkeep-system" .root.Release.Namespace | replace "ghcr.io/redkeep/redkeep:0.1.0" (include "redkeep.image" .root) }}
{{- end -}}
