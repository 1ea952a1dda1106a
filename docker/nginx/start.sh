#!/bin/sh
# Starts nginx, unless the service would be open to other machines without keys.
case "${HAR_PUBLISH_ADDRESS:-127.0.0.1}" in
127.* | localhost | ::1 | "[::1]") ;;
*)
    if [ "${HAR_HAS_KEYS:-}" != 1 ]; then
        echo "HAR_PUBLISH_ADDRESS=$HAR_PUBLISH_ADDRESS lets other machines in: set HAR_API_KEYS in .env" >&2
        exit 1
    fi
    ;;
esac
exec nginx -g 'daemon off;'
