#!/bin/sh
# Healthy: Redis has loaded its data and answers. The password goes by environment, not by argument.
[ -z "${REDIS_PASSWORD_FILE:-}" ] || REDIS_PASSWORD=$(cat "$REDIS_PASSWORD_FILE")
[ "$(REDISCLI_AUTH=$REDIS_PASSWORD redis-cli --no-auth-warning ping)" = PONG ]
