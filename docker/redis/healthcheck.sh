#!/bin/sh
# Healthy: Redis has loaded its data and answers. The password goes by environment, not by argument.
[ "$(REDISCLI_AUTH=$REDIS_PASSWORD redis-cli --no-auth-warning ping)" = PONG ]
