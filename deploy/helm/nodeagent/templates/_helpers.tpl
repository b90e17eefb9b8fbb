{{- define "nodeagent.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "nodeagent.serviceAccount" -}}
{{- default (include "nodeagent.name" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "nodeagent.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nodeagent.labels" -}}
{{ include "nodeagent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "nodeagent.image" -}}
{{- $path := trimPrefix "/" (printf "%s/%s" (trimSuffix "/" .image.registry) .image.repository) -}}
{{- if .image.digest }}{{ $path }}@{{ .image.digest }}{{ else }}{{ $path }}:{{ default .version .image.tag }}{{ end -}}
{{- end }}

{{/* The groups of nodes, by name, each with all its values; without any one whose name is empty. */}}
{{- define "nodeagent.groups" -}}
{{- $groups := dict -}}
{{- range $name, $own := default (dict "" dict) .Values.nodeGroups -}}
{{- $_ := set $groups $name (mergeOverwrite (deepCopy (omit $.Values "nodeGroups")) (deepCopy (default dict $own))) -}}
{{- $values := get $groups $name -}}
{{- if hasKey (default dict $own) "nodeFile" -}}{{- $_ := set $values "nodeFile" $own.nodeFile -}}{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end }}

{{/* The features of one group's values that are on, by their names in features.yaml, as a list. */}}
{{- define "nodeagent.features" -}}
{{- $on := list "always" -}}
{{- range $name, $value := .features -}}
{{- if and (kindIs "string" $value) (ne $value "off") -}}{{- $on = append $on (printf "%s-%s" $name $value) -}}{{- end -}}
{{- if and (kindIs "bool" $value) $value -}}{{- $on = append $on $name -}}{{- end -}}
{{- end -}}
{{- toYaml $on -}}
{{- end }}

{{/* What those features need together: root is the chart's, values the group's. */}}
{{- define "nodeagent.needs" -}}
{{- $table := .root.Files.Get "features.yaml" | fromYaml -}}
{{- $needs := dict "privileged" false "unconfined" false "hostNetwork" false "hostPID" false "token" false -}}
{{- $capabilities := list -}}
{{- $mounts := list -}}
{{- range $name := include "nodeagent.features" .values | fromYamlArray -}}
{{- $feature := required (printf "features.%s is not known" $name) (get $table $name) -}}
{{- range $flag := list "privileged" "unconfined" "hostNetwork" "hostPID" "token" -}}
{{- if get $feature $flag -}}{{- $_ := set $needs $flag true -}}{{- end -}}
{{- end -}}
{{- $capabilities = concat $capabilities (default list $feature.capabilities) -}}
{{- $mounts = concat $mounts (default list $feature.mounts) -}}
{{- end -}}
{{- $_ := set $needs "capabilities" ($capabilities | uniq | sortAlpha) -}}
{{- $_ := set $needs "mounts" $mounts -}}
{{- toYaml $needs -}}
{{- end }}

{{/* Whether any group patches its nodes over the API: "true" or nothing. */}}
{{- define "nodeagent.usesApi" -}}
{{- $found := "" -}}
{{- range $values := include "nodeagent.groups" . | fromYaml -}}
{{- if eq (toString $values.features.labels) "api" -}}{{- $found = "true" -}}{{- end -}}
{{- end -}}
{{- $found -}}
{{- end }}
