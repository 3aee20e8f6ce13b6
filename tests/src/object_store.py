"""An object store that speaks S3: OpenStack's Swift with its S3 API, all of its servers in one process.

object_store.py FOLDER [CERTIFICATE KEY]: makes the bucket `pictures` of the user `test:tester`, whose key is `testing`, prints its port, and serves
until it is killed. FOLDER is empty, on a file system that has extended attributes.
"""

import array
import os
import sys

import eventlet

eventlet.monkey_patch()

from eventlet import wsgi  # noqa: E402
from swift.common import utils  # noqa: E402

# What is in /etc/swift where Swift is installed for good.
utils.HASH_PATH_SUFFIX = b"tests"
utils.validate_hash_conf = lambda: None

from swift.common.ring import RingData  # noqa: E402
from swift.common.swob import Request  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402

folder, certificate = sys.argv[1], sys.argv[2:]
os.mkdir(folder + "/disks")
os.mkdir(folder + "/disks/disk")


class Cache:
    """What memcached is for."""

    def __init__(self):
        self.values = {}

    def set(self, key, value, **_):
        self.values[key] = value

    def get(self, key, **_):
        return self.values.get(key)

    def delete(self, key, **_):
        self.values.pop(key, None)


class Quiet:
    """A log that nobody reads."""

    def write(self, _):
        pass

    def flush(self):
        pass


def load(name, text):
    """The server of a configuration."""
    path = "%s/%s.conf" % (folder, name)
    with open(path, "w") as file:
        file.write(COMMON % (folder, folder) + text)
    return loadapp(path, global_conf={"log_name": name})


def serve(app, listener):
    """Answers what comes to a socket."""
    eventlet.spawn(wsgi.server, listener, app, Quiet(), protocol=SwiftHttpProtocol)


# What all servers have.
COMMON = "[DEFAULT]\nswift_dir = %s\ndevices = %s/disks\nmount_check = false\nlog_level = ERROR\n"


for kind in ["account", "container", "object"]:
    listener = eventlet.listen(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    disk = {"id": 0, "zone": 1, "region": 1, "device": "disk", "weight": 1.0, "meta": ""}
    disk.update({"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port})
    RingData([array.array("H", [0, 0])], [disk], 31).save("%s/%s.ring.gz" % (folder, kind))
    text = "fallocate_reserve = 0\n[pipeline:main]\npipeline = server\n[app:server]\nuse = egg:swift#%s\n"
    serve(load(kind, text % kind), listener)

listener = eventlet.listen(("127.0.0.1", 0))
port = listener.getsockname()[1]
if certificate:
    # Handshakes that fail are no affair of whoever accepts.
    options = {"server_side": True, "do_handshake_on_connect": False}
    listener = eventlet.wrap_ssl(listener, certfile=certificate[0], keyfile=certificate[1], **options)
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth copy slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = eu-test-1
storage_domain = localhost
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
"""
proxy, cache = load("proxy", PROXY), Cache()
serve(lambda environment, start: proxy(dict(environment, **{"swift.cache": cache}), start), listener)

# The bucket, by a request that passes by all that asks who is there.
inner = load("inner", PROXY.replace("catch_errors gatekeeper listing_formats s3api tempauth copy slo ", ""))
answer = Request.blank("/v1/AUTH_test/pictures", {"REQUEST_METHOD": "PUT"}).get_response(inner)
assert answer.status_int == 201, answer.status
print(port, flush=True)
while True:
    eventlet.sleep(3600)
