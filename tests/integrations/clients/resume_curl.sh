#!/bin/sh
# A stream that survives its connection, gone on with by curl. Arguments: the server, its key and the model.
set -eu
url=$1 key=$2 model=$3
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
body='{"model": "'$model'", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 24, "temperature": 0,
  "ignore_eos": true, "stream": true, "resumable": true}'

ask() {
  curl --silent --show-error --no-buffer --header "authorization: Bearer $key" --header 'content-type: application/json' "$@"
}

ask "$url/v1/chat/completions" --data "$body" > "$folder/whole"
ask "$url/v1/chat/completions" --data "$body" 2> /dev/null | head -n 6 > "$folder/begun" # two events, and curl ends
last=$(sed -n 's/^id: //p' "$folder/begun" | tail -n 1)
sed -n '/^data: /p' "$folder/begun" > "$folder/mended"
ask "$url/v1/streams/${last%:*}" --header "last-event-id: $last" | sed -n '/^data: /p' >> "$folder/mended"

# How many tokens an event has may differ, and so the texts are compared.
text() {
  sed -n 's/^data: .*"delta":{.*"content":"\(.*\)"}.*/\1/p' "$1" | tr -d '\n'
}
text "$folder/whole" > "$folder/expected"
text "$folder/mended" > "$folder/seen"
test -s "$folder/expected"
cmp "$folder/expected" "$folder/seen"
test "$(tail -n 1 "$folder/mended")" = 'data: [DONE]'
