//! Links, addresses, routes and namespaces over rtnetlink.
