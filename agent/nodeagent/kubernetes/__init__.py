"""What speaks to the kubelet: messages from tables, pod resources, the server of device plugins."""
