"""The base image that is made here from Debian's packages."""
