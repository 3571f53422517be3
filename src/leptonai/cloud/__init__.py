"""The cloud: resources that controllers make true, workloads that outlive the plane. Imports only `base`."""
