# For scripts that can print what they would do: `run COMMAND...` runs it or, if $dry is set, prints it
# as a shell takes it.

quoted() {
  for word; do
    case $word in
      '' | *[!A-Za-z0-9@%+=:,./_-]*) printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
      *) printf '%s ' "$word" ;;
    esac
  done
}

run() {
  if [ -n "$dry" ]; then quoted "$@" | sed 's/ $//'; echo; else "$@"; fi
}
