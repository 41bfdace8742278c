"""The container's health check: exits with 0 if /health on the port in the first argument returns 200."""
import sys
import urllib.request

urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health", timeout=2)
