"""A real nginx for tests: the program, and the part of its configuration that tests share."""

import shutil

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

TEMPORARY = """client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;"""
"""Folders that nginx may write to. Belongs into `http`, before `str.format`."""
